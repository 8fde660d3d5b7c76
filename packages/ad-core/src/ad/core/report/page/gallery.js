
// Pictures with their maps, as cards and one of them large. The page's own script says which are
// shown by `order`, what they are by `badge` and `describe`, and how many by `galleryCount`.

const PAGE = 24; // pictures that are shown at first, and more at each press of the button

const cards = new Map();

// --- pictures and maps -------------------------------------------------------------------------

const loaded = new Map();

/** A picture from a data address, decoded once. */
function load(address) {
  if (!loaded.has(address)) {
    const image = new Image();
    image.src = address;
    loaded.set(address, image.decode().then(() => image));
  }
  return loaded.get(address);
}

/** Width and height of the picture's shape, the longer side of a given length. */
function shape([width, height], side) {
  const scale = side / Math.max(width, height);
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** Pixels of a WebP, brought to a size. */
async function pixels(address, width, height) {
  const image = await load(address);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** The map of an item in the colours that were chosen, as far as it has both. */
const mapOf = (item) => (state.colours === "own" && item.own !== null ? item.own : item.heat);

/** Colour a map: the table has red, green, blue and alpha for each grey level. */
async function paintHeat(canvas, item) {
  const address = mapOf(item);
  const grey = await pixels(address, canvas.width, canvas.height);
  if (address !== mapOf(item)) return; // others were chosen meanwhile
  for (let at = 0; at < grey.data.length; at += 4) {
    const level = 4 * grey.data[at];
    for (let part = 0; part < 4; part += 1) grey.data[at + part] = data.colours[level + part];
  }
  canvas.getContext("2d").putImageData(grey, 0, 0);
}

/** Outline a mask: white, or blue, with a dark rim, to be seen on any picture. */
async function paintInside(canvas, address, line) {
  const { width, height } = canvas;
  const mask = (await pixels(address, width, height)).data;
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[4 * (y * width + x)] > 127;
  const context = canvas.getContext("2d");
  for (const [colour, size] of [["#0008", 3], [line, 1]]) {
    context.fillStyle = colour;
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        if (inside(x, y) && !(inside(x - 1, y) && inside(x + 1, y) && inside(x, y - 1) && inside(x, y + 1))) {
          context.clearRect(x - (size >> 1), y - (size >> 1), size, size);
          context.fillRect(x - (size >> 1), y - (size >> 1), size, size);
        }
      }
    }
  }
}

const LAYERS = {
  heat: paintHeat,
  outline: (canvas, item) => paintInside(canvas, item.outline, "#4da3ff"),
  mask: (canvas, item) => paintInside(canvas, item.mask, "#fff"),
};

/** Boxes of regions, which are in the picture's own pixels. */
function boxes(item) {
  const [width, height] = item.size;
  const svg = draw("svg", { class: "regions", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const style of ["rim", "box"]) {
    for (const [x0, y0, x1, y1] of item.regions) {
      svg.append(draw("rect", { class: style, x: x0, y: y0, width: x1 - x0, height: y1 - y0 }));
    }
  }
  return svg;
}

/** A picture under its map, what the detector's own test outlines and the outline of its defect. */
function layers(item, side, parts) {
  const [width, height] = shape(item.size, side);
  const box = make("span", { class: "layers" },
    make("img", { src: item.picture, alt: "", width, height, decoding: "async" }));
  box.style.setProperty("--ratio", width / height);
  for (const [name, paint] of Object.entries(LAYERS)) {
    if (!parts.includes(name) || (item[name] ?? null) === null) continue;
    const canvas = make("canvas", { class: name, width, height });
    paint(canvas, item);
    box.append(canvas);
  }
  if (parts.includes("regions") && item.regions?.length) box.append(boxes(item));
  return box;
}

// --- cards -------------------------------------------------------------------------------------

function card(item) {
  if (!cards.has(item.index)) {
    const mark = make("span", { class: "badge" });
    const button = make("button", { type: "button", class: "card" },
      make("span", { class: "frame" }, layers(item, 256, ["heat", "outline", "mask", "regions"])),
      make("span", { class: "caption" },
        make("span", { class: "top" }, mark, make("span", { class: "score" }, short(item.score))),
        make("span", { class: "name" }, item.name)));
    button.addEventListener("click", () => view(order().indexOf(item)));
    cards.set(item.index, { item, row: make("li", {}, button), button, mark });
  }
  return cards.get(item.index);
}

/** Say on each card what its picture is called now. */
function showBadges() {
  for (const { item, button, mark } of cards.values()) {
    const { words, wrong } = badge(item);
    button.classList.toggle("mistake", wrong);
    mark.className = `badge ${wrong ? "mistake" : "right"}`;
    mark.textContent = words;
    mark.hidden = !words;
  }
}

function showGallery() {
  const items = order();
  at("gallery").replaceChildren(...items.slice(0, state.shown).map((item) => card(item).row));
  showBadges();
  const left = items.length - state.shown;
  at("more").hidden = left <= 0;
  at("more").textContent = `Show ${Math.min(PAGE, left)} more of ${left}`;
  at("gallery-count").textContent = galleryCount() + (items.length ? "" : " Nothing to show with this choice.");
}

// --- one picture, large ------------------------------------------------------------------------

function view(place) {
  const items = order();
  if (!items.length) return;
  state.viewed = Math.min(Math.max(place, 0), items.length - 1);
  const item = items[state.viewed];
  at("viewer-title").textContent = item.name;
  at("viewer-text").replaceChildren(...describe(item), ` Picture ${state.viewed + 1} of ${items.length}.`);
  const part = (words, parts) => make("figure", {},
    make("div", { class: "frame" }, layers(item, 512, parts)), make("figcaption", {}, words));
  const views = [part((item.mask ?? null) === null ? "picture" : "picture and outline of the defect", ["mask"])];
  if (item.heat !== null) {
    const words = item.own !== null && state.colours === "own" ? "map, in its own range of colours" : "map";
    views.push(part(item.regions?.length ? `${words}, and boxes of regions` : words, ["heat", "outline", "regions"]));
  }
  at("viewer-pictures").replaceChildren(...views);
  at("viewer-back").disabled = state.viewed === 0;
  at("viewer-next").disabled = state.viewed === items.length - 1;
  if (!at("viewer").open) at("viewer").showModal();
}

function closeViewer() {
  const item = order()[state.viewed];
  at("viewer").close();
  if (item && !cards.get(item.index)?.row.isConnected) {
    state.shown = Math.ceil((state.viewed + 1) / PAGE) * PAGE;
    showGallery();
  }
  if (item) card(item).button.focus();
}

// --- what people do ----------------------------------------------------------------------------

/** Say what the colours of maps are, and show those in the ones that were chosen. */
function showColours() {
  const { colours } = state;
  for (const id of ["colours", "viewer-colours"]) at(id).value = colours;
  at("ramp-words").textContent = data.calibration?.pixel_threshold == null
    ? "No pixel threshold: each map has its own range of colours."
    : colours === "own"
      ? "Each map has its own range of colours: red is its highest value, in a good picture as in a bad one, and says nothing of the threshold."
      : "Colour starts just below the pixel threshold, which is at orange.";
  for (const { item, row } of cards.values()) {
    const canvas = row.querySelector("canvas.heat");
    if (canvas) paintHeat(canvas, item);
  }
  if (at("viewer").open) view(state.viewed);
}

function listenToGallery() {
  for (const id of ["opacity", "viewer-opacity"]) {
    at(id).addEventListener("input", () => {
      for (const other of ["opacity", "viewer-opacity"]) at(other).value = at(id).value;
      document.body.style.setProperty("--heat", at(id).value / 100);
    });
  }
  for (const id of ["colours", "viewer-colours"]) {
    at(id).append(make("option", { value: "heat" }, "from the threshold"),
      make("option", { value: "own" }, "each picture's own range"));
    at(id).addEventListener("change", () => { state.colours = at(id).value; showColours(); });
  }
  for (const [id, hides] of [["outline", "no-outline"], ["own", "no-own"], ["boxes", "no-boxes"]]) {
    at(id)?.addEventListener("change", () => document.body.classList.toggle(hides, !at(id).checked));
  }
  at("more").addEventListener("click", () => {
    const first = state.shown;
    state.shown += PAGE;
    showGallery();
    at("gallery").children[first]?.querySelector("button").focus();
  });
  at("viewer-close").addEventListener("click", closeViewer);
  at("viewer").addEventListener("cancel", (event) => { event.preventDefault(); closeViewer(); });
  at("viewer-back").addEventListener("click", () => view(state.viewed - 1));
  at("viewer-next").addEventListener("click", () => view(state.viewed + 1));
  at("viewer").addEventListener("keydown", (event) => {
    if (event.target.type === "range" || event.target.tagName === "SELECT") return;
    if (event.key === "ArrowLeft") view(state.viewed - 1);
    if (event.key === "ArrowRight") view(state.viewed + 1);
  });
  showColours();
}
