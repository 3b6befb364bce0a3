import * as host from "./host.js";
import { showPreview } from "./animated_preview.js";

const PREVIEW_MESSAGE = "motiongraft.preview";

host.registerExtension({
  name: "MotionGraft.AnimatedPreview",
  setup() {
    host.addStyleSheet(new URL("./animated_preview.css", import.meta.url));
    host.onServerMessage(PREVIEW_MESSAGE, (message) => showPreview(host, message));
  },
});
