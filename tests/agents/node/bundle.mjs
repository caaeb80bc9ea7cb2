// Bundles a page for a browser: node bundle.mjs OUTPUT [MODULE=PACKAGE…], with other packages.
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const [outfile, ...aliases] = process.argv.slice(2);

await build({
  absWorkingDir: fileURLToPath(new URL('.', import.meta.url)), // where aliases are looked up
  entryPoints: ['chat.jsx'],
  alias: Object.fromEntries(aliases.map((each) => each.split('='))),
  bundle: true,
  define: { 'process.env.NODE_ENV': '"production"' },
  format: 'esm',
  jsx: 'automatic',
  outfile,
});
