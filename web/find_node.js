/**
 * The node that ran under an execution id, or null if the open workflow has none.
 * A node in a subgraph is called by its path: "12:5" is node 5 in the subgraph of node 12.
 * @param {object} graph the editor's root graph
 * @param {string} executionId
 * @returns {object | null}
 */
export function findNode(graph, executionId) {
  const path = String(executionId).split(":");
  const id = path.pop();
  const innermost = path.reduce((outer, subgraphId) => outer?.getNodeById(subgraphId)?.subgraph, graph);
  return innermost?.getNodeById(id) ?? null;
}
