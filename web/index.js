import * as host from "./host.js";
import { showPreview } from "./animated_preview.js";
import { refreshPictures } from "./node_pictures.js";
import { addTravelTimeline } from "./travel_timeline.js";
import { addWindowTimeline } from "./window_timeline.js";

const PREVIEW_MESSAGE = "motiongraft.preview";

host.registerExtension({
  name: "MotionGraft.AnimatedPreview",
  setup() {
    host.addStyleSheet(new URL("./animated_preview.css", import.meta.url));
    host.onServerMessage(PREVIEW_MESSAGE, (message) => showPreview(host, message));
  },
});

host.registerExtension({
  name: "MotionGraft.Timelines",
  setup() {
    host.addStyleSheet(new URL("./timelines.css", import.meta.url));
    host.onGraphChange(refreshPictures);
  },
  nodeCreated(node) {
    addWindowTimeline(host, node);
    addTravelTimeline(host, node);
  },
  afterConfigureGraph() {
    refreshPictures(); // nodes are made before their links
  },
});
