
// Scores and the threshold among them: of test pictures or of new ones. The page's own script says
// in `state.threshold` what it is, and shows by `update` what it changes.

const STEPS = 1000; // of the slider

const sorted = [...new Set(data.scores)].sort((a, b) => a - b);
const saved = data.calibration?.threshold ?? null;
const axis = makeAxis();

/** A score on the detector's scale from 0 to 1. */
const scaled = (score) => 0.5 + 0.5 * Math.tanh((score - saved) / data.calibration.scale / 2);

/**
 * The scores the plot and slider cover. Scores far above the threshold would press all others
 * into one bar, so the axis ends at five times what lies below it.
 */
function makeAxis() {
  const high = sorted.at(-1) ?? 1;
  const middle = saved ?? high;
  const low = Math.min(sorted[0] ?? 0, middle);
  const reach = Math.min(high, middle > low ? low + 5 * (middle - low) : high);
  const top = Math.max(reach, middle);
  const pad = (top - low || Math.abs(top) || 1) * 0.02;
  const from = low - pad, to = top + pad;
  return {
    from, to, pad, cut: high > to,
    share: (score) => Math.min(1, Math.max(0, (score - from) / (to - from))),
    score: (share) => from + share * (to - from),
  };
}

/**
 * Draw the scores with the threshold.
 * @param {Object[]} rows Of each its `name`, how many pictures are in it (`total`) and stand behind
 *   each score (`weight`), and its scores by style (`bars`).
 * @param {string} words What it is, for those who do not see it.
 */
function histogram(rows, words) {
  const width = Math.max(280, Math.min(at("plot").clientWidth || 800, 1200));
  const inset = 8; // half the slider's thumb: the line stands above it
  const bins = width < 500 ? 28 : 56;
  const top = 22, tall = 84, gap = 20;
  const bottom = top + rows.length * (tall + gap) - gap;
  const x = (score) => inset + axis.share(score) * (width - 2 * inset);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${bottom + 22}`, role: "img", "aria-label": words });
  at("plot").replaceChildren(svg); // at once, as only what is shown has a size
  const labels = [];
  const write = (content, attributes) => {
    labels.push(draw("text", attributes, content));
    svg.append(labels.at(-1));
  };
  rows.forEach(({ name, total, weight, bars }, place) => {
    const floor = top + tall + place * (tall + gap);
    const amounts = bars.map(([, scores]) => {
      const own = new Array(bins).fill(0);
      for (const score of scores) own[Math.min(bins - 1, Math.floor(axis.share(score) * bins))] += 1;
      return own;
    });
    const sums = amounts[0].map((_, bin) => amounts.reduce((sum, own) => sum + own[bin], 0));
    const most = Math.max(1, ...sums);
    const step = (width - 2 * inset) / bins;
    sums.forEach((_, bin) => {
      let base = floor;
      bars.forEach(([style], part) => {
        if (!amounts[part][bin]) return;
        const height = (amounts[part][bin] / most) * (tall - 20);
        base -= height;
        svg.append(draw("rect", { class: style, x: inset + bin * step + 0.5, y: base, width: Math.max(1, step - 1), height }));
      });
    });
    svg.append(draw("line", { class: "axis", x1: 0, x2: width, y1: floor, y2: floor }));
    write(`${name}, ${total}`, { x: inset, y: floor - tall + 12 });
    write(`highest bar ${Math.round(most * weight)}`,
      { x: width - inset, y: floor - tall + 12, "text-anchor": "end", class: "soft" });
  });
  const boxes = labels.map((one) => one.getBBox());
  const line = (score, style) => {
    const across = x(score);
    const part = (y1, y2) => svg.append(draw("line", { class: style, x1: across, x2: across, y1, y2 }));
    let from = top - 4;
    for (const box of boxes) { // it leaves out the labels that it would go through
      if (across < box.x - 3 || across > box.x + box.width + 3) continue;
      part(from, box.y);
      from = box.y + box.height;
    }
    part(from, bottom);
  };
  if (saved !== null && saved !== state.threshold) line(saved, "saved");
  line(state.threshold, "cut");
  const here = x(state.threshold);
  const anchor = here < 80 ? "start" : here > width - 80 ? "end" : "middle";
  svg.append(draw("text", { x: anchor === "middle" ? here : anchor === "start" ? 0 : width, y: 13, "text-anchor": anchor },
    `threshold ${short(state.threshold)}`));
  svg.append(draw("text", { class: "soft", x: 0, y: bottom + 17 }, short(axis.from)));
  svg.append(draw("text", { class: "soft", x: width, y: bottom + 17, "text-anchor": "end" },
    axis.cut ? `${short(axis.to)} and above` : short(axis.to)));
  svg.append(draw("text", { class: "soft", x: width / 2, y: bottom + 17, "text-anchor": "middle" }, "score"));
}

/** Between a score and the next lower one, so that neither is on the edge. */
function below(score) {
  const place = sorted.indexOf(score);
  return place > 0 ? (sorted[place - 1] + score) / 2 : score - axis.pad;
}

/**
 * The threshold in few digits, which calls every picture here what the threshold itself calls it.
 * It keeps off the scores beside it: those come out a little otherwise in another batch.
 */
function typed() {
  const low = sorted.findLast((score) => score <= state.threshold) ?? -Infinity;
  const high = sorted.find((score) => score > state.threshold) ?? Infinity;
  const away = Math.min((high - low) / 10, axis.pad / 20);
  const wanted = Math.max(low + away, Math.min(high - away, state.threshold));
  for (let digits = 4; digits < 17; digits += 1) {
    const rounded = Number(wanted.toPrecision(digits));
    if (rounded >= low + away / 2 && rounded <= high - away / 2) return rounded;
  }
  return wanted;
}

/** How the detector gets the threshold that is set; nothing to say of the one that it has. */
function showKeep() {
  at("keep").hidden = state.threshold === saved;
  if (saved === null) {
    at("keep-words").textContent = "The detector has no scale yet to keep a threshold on. Good pictures give it one; RUN is the run's directory:";
    at("keep-command").textContent = "ad calibrate RUN --normals DIR";
    return;
  }
  at("keep-command").textContent = `ad calibrate RUN --threshold ${typed()}`;
}

/** Put a command on the clipboard, or mark it where the browser lets no page do that. */
async function copyCommand() {
  const button = at("keep-copy");
  try {
    await navigator.clipboard.writeText(at("keep-command").textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(at("keep-command"));
    button.textContent = "Marked";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

/** The next threshold at which one more picture, or tied ones, change sides. */
function neighbour(direction) {
  let place = sorted.findLastIndex((score) => score <= state.threshold);
  place += direction;
  return place < 0 ? axis.from : sorted[Math.min(place, sorted.length - 1)];
}

function move(threshold, options) {
  state.threshold = threshold;
  update(options);
}

/** Buttons that set the threshold: pairs of words and score. */
function addPresets(presets) {
  at("presets").replaceChildren(...presets.map(([words, threshold]) => {
    const button = make("button", { type: "button", value: threshold }, words);
    button.addEventListener("click", () => move(threshold));
    return button;
  }));
}

/** Put slider, number and buttons where the threshold is. */
function showThreshold() {
  at("slider").value = Math.round(axis.share(state.threshold) * STEPS);
  if (document.activeElement !== at("number")) at("number").value = state.threshold;
  for (const button of at("presets").children) {
    button.setAttribute("aria-pressed", Number(button.value) === state.threshold);
  }
}

/**
 * Let the threshold be moved.
 * @param {() => void} draw What is drawn anew where the page gets another width.
 */
function listenToThreshold(draw) {
  const slider = at("slider");
  slider.addEventListener("input", () => move(axis.score(slider.value / STEPS), { resting: false }));
  slider.addEventListener("change", () => showGallery());
  slider.addEventListener("keydown", (event) => {
    const direction = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!direction) return;
    event.preventDefault();
    move(neighbour(direction));
  });
  at("number").addEventListener("change", () => {
    const value = at("number").valueAsNumber;
    if (Number.isFinite(value)) move(value);
  });
  at("keep-copy").addEventListener("click", copyCommand);
  new ResizeObserver(draw).observe(at("plot"));
}
