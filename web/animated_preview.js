import { ClipPlayer } from "./clip_player.js";
import { findNode } from "./find_node.js";
import { altTextOf, captionOf, isLast, pictureRoute, playTimeOf } from "./preview_message.js";

/** The nodes that play a clip while they run: the one that they sample, or samples of what they train. */
const NODE_TYPES = new Set([
  "SampleAnimation",
  "MotionGraft_TrainDomainAdapter",
  "MotionGraft_TrainMotionModule",
  "MotionGraft_TrainMotionLoRA",
]);
const WIDGET_NAME = "animated_preview";
const WIDGET_TYPE = "MOTIONGRAFT_PREVIEW";
/** Room for the picture and its caption, as much as ComfyUI gives to a still preview. */
const HEIGHT = 220;

const players = new WeakMap();

/**
 * Plays the clip of a message in the node that sent it. The first clip makes room in the node; a message from another
 * workflow than the open one, or from another kind of node, changes nothing.
 * @param {typeof import("./host.js")} host
 * @param {import("./preview_message.js").PreviewMessage} message
 */
export function showPreview(host, message) {
  const node = senderOf(host.openGraph(), message);
  if (!node) return;
  playerOf(host, node).show({
    url: host.serverUrl(pictureRoute(message)),
    caption: captionOf(message),
    alt: altTextOf(message),
    playTime: playTimeOf(message),
    isLast: isLast(message),
  });
}

function senderOf(graph, message) {
  // A node that another one expanded into is not in the graph under its own id; it is shown by display_node_id.
  const ids = [message.display_node_id, message.node_id];
  return ids.map((id) => findNode(graph, id)).find((node) => NODE_TYPES.has(node?.type));
}

function playerOf(host, node) {
  if (!players.has(node)) players.set(node, addPlayer(host, node));
  return players.get(node);
}

function addPlayer(host, node) {
  const player = new ClipPlayer(document);
  host.addElement(node, WIDGET_NAME, WIDGET_TYPE, player.element, HEIGHT, () => player.stop());
  return player;
}
