import * as host from "./host.js";
import { showPreview } from "./animated_preview.js";
import { addTimeline, refreshTimelines } from "./window_timeline.js";

const PREVIEW_MESSAGE = "motiongraft.preview";

host.registerExtension({
  name: "MotionGraft.AnimatedPreview",
  setup() {
    host.addStyleSheet(new URL("./animated_preview.css", import.meta.url));
    host.onServerMessage(PREVIEW_MESSAGE, (message) => showPreview(host, message));
  },
});

host.registerExtension({
  name: "MotionGraft.WindowTimeline",
  setup() {
    host.addStyleSheet(new URL("./window_timeline.css", import.meta.url));
    host.onGraphChange(refreshTimelines);
  },
  nodeCreated(node) {
    addTimeline(host, node);
  },
  afterConfigureGraph() {
    refreshTimelines(); // nodes are made before their links
  },
});
