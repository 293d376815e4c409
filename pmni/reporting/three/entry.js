// The parts of three.js that the report's scripts use; esbuild leaves out the others.
export {
  AmbientLight, BufferAttribute, BufferGeometry, ColorManagement, DataTexture, DirectionalLight, DoubleSide, Group, HemisphereLight,
  LinearSRGBColorSpace, Matrix4, Mesh, MeshBasicMaterial, MeshLambertMaterial, MeshNormalMaterial, MeshPhongMaterial,
  PerspectiveCamera, Quaternion, Scene, Texture, Vector3, WebGLRenderer,
} from "three";
export { OrbitControls } from "three/addons/controls/OrbitControls.js";
export { LineMaterial } from "three/addons/lines/LineMaterial.js";
export { LineSegments2 } from "three/addons/lines/LineSegments2.js";
export { LineSegmentsGeometry } from "three/addons/lines/LineSegmentsGeometry.js";
