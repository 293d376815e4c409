"""The ways to initial poses, one file each; registered in pmni.config.extensions."""
