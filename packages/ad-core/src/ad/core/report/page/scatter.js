
// Accuracy against time: what a slower model buys.

/** Numbers to write at an axis of times: the roundest of which three are between two. */
function roundTimes(low, high) {
  let between = [];
  for (const digits of [[1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]]) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      found.push(...digits.map((digit) => digit * 10 ** power));
    }
    between = found.filter((time) => time >= low && time <= high);
    if (between.length > 2) break;
  }
  return between;
}

/** The largest step that gives at least three numbers between two. */
const stepOf = (span) =>
  [0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002].find((step) => span / step >= 2) ?? 0.001;

/** Models as points; lines lead along those than which none is both faster and better. */
function scatter(points, room) {
  const width = Math.max(280, Math.min(room, 1000)), height = 340;
  const left = 52, right = 14, top = 14, bottom = 46;
  const times = points.map((one) => one.milliseconds), aurocs = points.map((one) => one.auroc);
  const [fast, slow] = [Math.min(...times) / 1.4, Math.max(...times) * 1.4];
  const worst = Math.min(...aurocs), step = stepOf(Math.max(...aurocs) - worst || 0.01);
  const low = Math.floor(worst / step - 0.25) * step;
  const high = Math.min(1, (Math.ceil(Math.max(...aurocs) / step + 0.25)) * step);
  const x = (time) => left + (Math.log(time / fast) / Math.log(slow / fast)) * (width - left - right);
  const y = (auroc) => height - bottom - ((auroc - low) / (high - low)) * (height - top - bottom);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": `Image AUROC against time a picture of ${count(points.length, "model")}; the table below has the figures` });
  const text = (content, attributes) => svg.append(draw("text", attributes, content));
  for (let n = Math.round(low / step); n * step <= high + 1e-9; n += 1) {
    svg.append(draw("line", { class: "axis", x1: left, x2: width - right, y1: y(n * step), y2: y(n * step) }));
    text(String(Number((n * step).toFixed(3))), { x: left - 6, y: y(n * step) + 4, "text-anchor": "end", class: "soft" });
  }
  let written = -Infinity;
  for (const time of roundTimes(fast, slow)) {
    svg.append(draw("line", { class: "axis", x1: x(time), x2: x(time), y1: top, y2: height - bottom }));
    if (x(time) - written > 46) {
      text(short(time), { x: x(time), y: height - bottom + 18, "text-anchor": "middle", class: "soft" });
      written = x(time);
    }
  }
  text("image AUROC (up), ms a picture (right)", { x: left, y: height - 8, class: "soft" });
  const front = points.filter((one) => one.front).sort((a, b) => a.milliseconds - b.milliseconds);
  svg.append(draw("polyline", { class: "front",
    points: front.map((one) => `${x(one.milliseconds)},${y(one.auroc)}`).join(" ") }));
  // A name above or below another's point would be taken for that one's.
  const taken = points.map((one) => [x(one.milliseconds) - 6, y(one.auroc) - 36, 12, 72]);
  for (const one of points) {
    const [cx, cy] = [x(one.milliseconds), y(one.auroc)];
    if (one.chosen) svg.append(draw("circle", { class: "chosen", cx, cy, r: 9 }));
    svg.append(draw("circle", { class: one.front ? "good" : "soft", cx, cy, r: 5 }));
    writeBeside(one.label, [cx, cy], taken, width, text);
  }
  return svg;
}

/** Write a name beside a point where nothing else is: cut short, or not at all, where that is all there is room for. */
function writeBeside(name, [x, y], taken, width, text) {
  for (const label of name.length > 14 ? [name, `${name.slice(0, 12)}…`] : [name]) {
    if (writtenBeside(label, [x, y], taken, width, text)) return;
  }
}

function writtenBeside(label, [x, y], taken, width, text) {
  const long = 7.2 * label.length;
  const places = [-14, 14, 0, -28, 28].flatMap((down) => [
    [x + 9, y + down - 8, "start", x + 9], [x - 9 - long, y + down - 8, "end", x - 9],
  ]);
  const free = places.find(([left, top]) => left >= 0 && left + long <= width && top >= 0 && top < 290
    && !taken.some(([a, b, wide, high]) => left < a + wide && a < left + long && top < b + high && b < top + 16));
  if (!free) return false;
  taken.push([free[0], free[1], long, 16]);
  text(label, { x: free[3], y: free[1] + 13, "text-anchor": free[2] });
  return true;
}

/** The points, and all models as a table. */
function showSpeeds() {
  const { models, words } = data.speeds;
  const points = models.filter((one) => one.auroc !== null && one.milliseconds !== null);
  at("speeds-section").hidden = points.length === 0;
  at("recommended").append(...words.map((line) => make("li", {}, line)));
  at("recommended").hidden = words.length === 0;
  const known = (value) => (value === null ? "–" : String(Number(value.toPrecision(3))));
  const said = (one) => [one.chosen && "recommended", one.front && "none is both faster and better"];
  at("speeds").append(table(
    ["model", "image AUROC", "ms a picture", "GB of memory", "s to learn", "note"],
    models.map((one) => [label(one), figure(one.auroc), known(one.milliseconds), known(one.gigabytes),
      known(one.learning), said(one).filter(Boolean).join("; ")])));
  if (!points.length) return;
  const redraw = () => at("scatter").replaceChildren(scatter(points, at("scatter").clientWidth || 800));
  redraw();
  new ResizeObserver(redraw).observe(at("scatter"));
}
