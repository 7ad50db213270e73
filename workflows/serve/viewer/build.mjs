// Builds dist/ from src/: one script, one style sheet, the page, and the licences of what is bundled.
import { copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const out = "dist";
const bundled = ["openseadragon"];

// OpenSeadragon puts a style element of its own into the page, which the page's policy forbids (and for which
// style.css has a better rule). Without this it would try, and the browser would complain.
const OWN_STYLE = '!document.querySelector("style[data-openseadragon-mobile-css]")';
const withoutOwnStyle = {
  name: "without-own-style",
  setup(build) {
    build.onLoad({ filter: /openseadragon\.min\.js$/ }, async ({ path }) => {
      const text = await readFile(path, "utf8");
      if (!text.includes(OWN_STYLE)) throw new Error("OpenSeadragon no longer tests for its style as it did");
      return { contents: text.replace(OWN_STYLE, "false"), loader: "js" };
    });
  },
};

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
await build({
  entryPoints: { viewer: "src/main.ts", style: "src/style.css" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["es2022"],
  legalComments: "none",
  // The package's main file is its commented one.
  alias: { openseadragon: "./node_modules/openseadragon/build/openseadragon/openseadragon.min.js" },
  plugins: [withoutOwnStyle],
  logLevel: "warning",
});
for (const name of ["index.html", "icon.svg"]) await copyFile(`src/${name}`, `${out}/${name}`);

const texts = await Promise.all(
  bundled.map(async (name) => {
    const { version, license } = JSON.parse(await readFile(`node_modules/${name}/package.json`, "utf8"));
    const text = await readFile(`node_modules/${name}/LICENSE.txt`, "utf8");
    return `${name} ${version} (${license})\n${"=".repeat(72)}\n\n${text.trim()}\n`;
  }),
);
await writeFile(`${out}/LICENSES.txt`, `The viewer contains these packages.\n\n${texts.join("\n")}`);
