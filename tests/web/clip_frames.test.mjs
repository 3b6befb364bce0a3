import assert from "node:assert/strict";
import { test } from "node:test";

import { framesBehind } from "../../web/clip_frames.js";

/** A graph of nodes by id; a link goes from an output of MODEL or LATENT to the socket of that name. */
function graphOf(nodes, links) {
  const graph = { links: {}, getNodeById: (id) => nodes[id] };
  for (const [id, node] of Object.entries(nodes)) Object.assign(node, { id: Number(id), graph, inputs: [], outputs: [] });
  links.forEach(([from, to, type, name = type.toLowerCase()], id) => {
    graph.links[id] = { origin_id: from, target_id: to };
    nodes[from].outputs.push({ type, links: [id] });
    nodes[to].inputs.push({ type, name, link: id });
  });
  return nodes;
}

function latentOf(batchSize) {
  return { widgets: [{ name: "width", value: 512 }, { name: "batch_size", value: batchSize }] };
}

test("the frames are the batch of the latent at the sampler", () => {
  const nodes = graphOf({ 1: {}, 2: {}, 3: latentOf(48) }, [[1, 2, "MODEL"], [3, 2, "LATENT", "latent_image"]]);
  assert.equal(framesBehind(nodes[1]), 48);
});

test("they are found behind nodes between, on both ways", () => {
  const links = [[1, 2, "MODEL"], [2, 3, "MODEL"], [4, 3, "LATENT", "latent"], [5, 4, "LATENT", "samples"]];
  assert.equal(framesBehind(graphOf({ 1: {}, 2: {}, 3: {}, 4: {}, 5: latentOf(32) }, links)[1]), 32);
});

test("without a sampler or a latent that says so they are unknown", () => {
  assert.equal(framesBehind(graphOf({ 1: {} }, [])[1]), null);
  assert.equal(framesBehind(graphOf({ 1: {}, 2: {} }, [[1, 2, "MODEL"]])[1]), null);
  const open = graphOf({ 1: {}, 2: {}, 3: {} }, [[1, 2, "MODEL"], [3, 2, "LATENT", "latent"]]);
  assert.equal(framesBehind(open[1]), null);
});

test("a circle of nodes ends", () => {
  assert.equal(framesBehind(graphOf({ 1: {}, 2: {} }, [[1, 2, "MODEL"], [2, 1, "MODEL"]])[1]), null);
});
