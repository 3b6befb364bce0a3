/** Widgets that say how many frames an empty latent has. */
const COUNTS = ["batch_size", "num_frames", "length"];
const LATENT_SOCKETS = ["latent", "latent_image", "samples"];

/**
 * How many frames the clip has that a node's model samples: those of the latent at the next sampler behind it.
 * @param {object} node of the editor's graph
 * @returns {number | null} null if no sampler is connected, or its latent does not say
 */
export function framesBehind(node) {
  const waiting = [node];
  const seen = new Set(waiting);
  while (waiting.length) {
    const next = waiting.shift();
    const frames = next === node ? null : framesOfLatent(next, new Set());
    if (frames !== null) return frames;
    for (const target of targetsOf(next)) {
      if (!seen.has(target)) waiting.push(target);
      seen.add(target);
    }
  }
  return null;
}

function targetsOf(node) {
  const outputs = (node.outputs ?? []).filter((output) => output.type === "MODEL");
  const links = outputs.flatMap((output) => output.links ?? []).map((id) => linkOf(node.graph, id));
  return links.map((link) => link && node.graph.getNodeById(link.target_id)).filter(Boolean);
}

function framesOfLatent(node, seen) {
  seen.add(node);
  for (const input of node.inputs ?? []) {
    if (!LATENT_SOCKETS.includes(input.name) || input.type !== "LATENT" || input.link == null) continue;
    const source = node.graph.getNodeById(linkOf(node.graph, input.link)?.origin_id);
    if (!source || seen.has(source)) continue;
    const count = source.widgets?.find((widget) => COUNTS.includes(widget.name))?.value;
    const frames = Number.isInteger(count) ? count : framesOfLatent(source, seen);
    if (frames !== null) return frames;
  }
  return null;
}

function linkOf(graph, id) {
  return graph.getLink?.(id) ?? graph.links?.[id];
}
