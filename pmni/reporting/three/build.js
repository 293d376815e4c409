// Writes three.min.js, which defines the global THREE, and LICENSE; `make viewer` runs it.
import { build } from "esbuild";
import { readFileSync, writeFileSync } from "node:fs";

const { version } = JSON.parse(readFileSync("node_modules/three/package.json", "utf-8"));
const licence = readFileSync("node_modules/three/LICENSE", "utf-8");
writeFileSync("LICENSE", licence);
await build({
  entryPoints: ["entry.js"],
  outfile: "three.min.js",
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "THREE",
  target: "es2022",
  legalComments: "none", // the licence in the banner is theirs
  banner: { js: `/*!\nthree.js ${version}, https://threejs.org\n\n${licence.trim()}\n*/` },
});
