import assert from "node:assert/strict";
import { before, beforeEach, test } from "node:test";

import { showPreview } from "../../web/animated_preview.js";

const message = {
  node_id: "7",
  display_node_id: "7",
  prompt_id: "a",
  filename: "a.webp",
  subfolder: "motiongraft",
  type: "temp",
  step: 1,
  total_steps: 25,
  frames: 16,
  frames_per_second: 8,
};

let nodes;
let given;

/** The adapter to the editor, with a workflow of one graph. */
const host = {
  openGraph: () => ({ getNodeById: (id) => nodes[id] ?? null }),
  serverUrl: (route) => `/api${route}`,
  addElement: (node, name, type) => given.push({ node, name, type }),
};

before(() => {
  globalThis.document = { createElement: () => ({ append() {} }) };
});

beforeEach(() => {
  nodes = { 4: { type: "CLIPTextEncode" }, 7: { type: "SampleAnimation" }, 8: { type: "SampleAnimation" } };
  given = [];
});

test("the node that samples gets a preview", () => {
  showPreview(host, message);
  assert.deepEqual(given, [{ node: nodes[7], name: "animated_preview", type: "MOTIONGRAFT_PREVIEW" }]);
});

test("training nodes show the clips that they make on the way", () => {
  nodes[7] = { type: "MotionGraft_TrainMotionModule" };
  showPreview(host, message);
  assert.equal(given[0].node, nodes[7]);
});

test("a node gets one preview for all messages", () => {
  showPreview(host, message);
  showPreview(host, { ...message, step: 2 });
  assert.equal(given.length, 1);
});

test("a node that another one expanded into shows its preview where the editor shows the node", () => {
  showPreview(host, { ...message, node_id: "9.0.0.8", display_node_id: "8" });
  assert.equal(given[0].node, nodes[8]);
});

test("a node whose display node is of another kind shows its preview itself", () => {
  showPreview(host, { ...message, node_id: "8", display_node_id: "4" });
  assert.equal(given[0].node, nodes[8]);
});

test("nodes of another kind are left alone", () => {
  showPreview(host, { ...message, node_id: "4", display_node_id: "4" });
  assert.deepEqual(given, []);
});

test("a message from a workflow that is not open changes nothing", () => {
  showPreview(host, { ...message, node_id: "99", display_node_id: "99" });
  assert.deepEqual(given, []);
});
