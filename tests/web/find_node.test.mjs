import assert from "node:assert/strict";
import { test } from "node:test";

import { findNode } from "../../web/find_node.js";

function graphOf(nodes) {
  return { getNodeById: (id) => nodes[id] ?? null };
}

const sampler = { type: "SampleAnimation" };
const inner = { type: "SampleAnimation" };
const innermost = { type: "SampleAnimation" };
const nested = { subgraph: graphOf({ 3: innermost }) };
const graph = graphOf({ 7: sampler, 12: { subgraph: graphOf({ 5: inner, 6: nested }) } });

test("a node of the open workflow is found by its id", () => {
  assert.equal(findNode(graph, "7"), sampler);
});

test("a node in a subgraph is found by its path", () => {
  assert.equal(findNode(graph, "12:5"), inner);
});

test("a node in a subgraph of a subgraph is found by its path", () => {
  assert.equal(findNode(graph, "12:6:3"), innermost);
});

test("a number is as good as its digits", () => {
  assert.equal(findNode(graph, 7), sampler);
});

for (const [id, reason] of [
  ["8", "there is none of that id"],
  ["12:8", "its subgraph has none of that id"],
  ["7:5", "the path leads through a node without a subgraph"],
  ["99:5", "the path leads through a node that is not there"],
  ["7.0.3", "another node expanded into it"],
]) {
  test(`no node is found if ${reason}`, () => {
    assert.equal(findNode(graph, id), null);
  });
}

test("no node is found while no workflow is open", () => {
  assert.equal(findNode(undefined, "7"), null);
  assert.equal(findNode(undefined, "12:5"), null);
});
