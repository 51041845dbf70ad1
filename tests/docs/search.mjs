// node search.mjs SITE < queries: the theme's own search worker on the built index. A JSON list of first hits, one per line of input.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const site = process.argv[2];
const queries = readFileSync(0, "utf8").split("\n").filter(Boolean);
const index = JSON.parse(readFileSync(join(site, "search/search_index.json"), "utf8"));
const folder = join(site, "assets/javascripts/workers");
const worker = readdirSync(folder).find((name) => /^search\..*\.js$/.test(name));

const listeners = [];
let answer;
globalThis.self = globalThis;
globalThis.addEventListener = (type, listener) => type === "message" && listeners.push(listener);
globalThis.postMessage = (message) => (answer = message);
(0, eval)(readFileSync(join(folder, worker), "utf8"));

async function ask(data) {
  for (const listener of listeners) await listener({ data });
  return answer;
}

await ask({ type: 0, data: { config: index.config, docs: index.docs, options: { suggest: false } } });
const hits = [];
for (const query of queries) {
  const { items } = (await ask({ type: 2, data: query })).data;
  // The theme shows a page with its sections, the page first.
  hits.push(items.length ? items[0].map((item) => item.location) : []);
}
console.log(JSON.stringify(hits));
