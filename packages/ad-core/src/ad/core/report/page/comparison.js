
// The page of several runs. Runs are rows and columns in the order in which they were given.

const runs = data.runs;

/** A run's short name: its number, and the model; `Each run` has the rest. */
const runName = (run) => `${runs.indexOf(run) + 1}. ${run.model}`;

/** The figure that was chosen, of each run and category; the best of a column stands out. */
function showFigures() {
  if (!data.columns.length) {
    at("meaning").textContent = "None: no run has test pictures.";
    at("figure").closest("p").hidden = at("figures").hidden = true;
    return;
  }
  const { key, meaning } = data.figures.find((one) => one.key === at("figure").value);
  at("meaning").textContent = meaning;
  const several = data.columns.length > 1;
  const values = runs.map((run) => [
    ...data.columns.map((column) => run.columns[column]?.[key] ?? null),
    ...(several ? [run.mean[key] ?? null] : []),
  ]);
  const best = values[0].map((_, column) =>
    Math.max(...values.map((row) => row[column] ?? -Infinity)));
  const cell = (value, column) => {
    const text = figure(value);
    return text === figure(best[column]) && runs.length > 1 && value !== null
      ? make("strong", { class: "best" }, text, make("span", { class: "hidden" }, " (best)")) : text;
  };
  at("figures").replaceChildren(table(
    ["run", ...data.columns, ...(several ? ["mean of its own"] : [])],
    runs.map((run, row) => [runName(run), ...values[row].map(cell)])));
}

/** Scores of a run as ticks, good ones above, with its threshold. */
function dots(run) {
  if (!run.good.length && !run.defective.length) return "–";
  const all = [...run.good, ...run.defective, ...(run.threshold === null ? [] : [run.threshold])];
  const width = 300;
  const low = Math.min(...all), span = Math.max(...all) - low || 1;
  const x = (score) => ((score - low) / span) * (width - 2);
  const svg = draw("svg", { class: "dots two-rows", viewBox: `0 0 ${width} 40`, preserveAspectRatio: "none", role: "img",
    "aria-label": "Scores of good and defective pictures and the threshold" });
  for (const [name, y] of [["good", 3], ["defective", 23]]) {
    for (const score of run[name]) {
      svg.append(draw("rect", { class: name, x: x(score), y, width: 1.6, height: 14 }));
    }
  }
  if (run.threshold !== null) {
    const cut = x(run.threshold) + 0.8;
    svg.append(draw("line", { class: "cut", x1: cut, x2: cut, y1: 0, y2: 40 }));
  }
  return svg;
}

function showVerdicts() {
  at("verdicts").append(table(["run", "defective found", "false alarms", "threshold", "scores"],
    runs.map((run) => {
      const { found, defective, false_alarms: alarms, good } = run.verdicts ?? {};
      const none = run.verdicts === null;
      return [runName(run), none || !defective ? "–" : `${found} of ${defective}`, none || !good ? "–" : `${alarms} of ${good}`,
        run.threshold === null ? "none" : short(run.threshold), dots(run)];
    })));
}

function showSettings() {
  at("settings").append(data.settings.length
    ? table(["", ...runs.map(runName)], data.settings.map(({ name, values }) => [name, ...values]))
    : "Nothing: the runs have the same settings, machine and versions.");
}

function showWrong() {
  const tested = runs.some(({ good, defective }) => good.length + defective.length > 0);
  at("wrong-count").textContent = data.numWrong === 0
    ? (tested ? "None, at the threshold of each." : "None is known: there are no scores of test pictures.")
    : `${count(data.numWrong, "picture")}, those first that most runs get wrong${data.wrong.length < data.numWrong ? `; the first ${data.wrong.length} are here` : ""}.`;
  const verdict = (called, defective) => {
    if (called === null) return "–";
    if (called === defective) return "right";
    return make("span", { class: "badge mistake" }, defective ? "missed" : "false alarm");
  };
  if (data.wrong.length) {
    at("wrong").append(table(["picture", "of", "truth", ...runs.map(runName)],
      data.wrong.map(({ name, column, defective, group, called }) =>
        [name, column, defective ? group : "good", ...called.map((one) => verdict(one, defective))])));
  }
}

function showRuns() {
  at("runs").append(...runs.map((run) => make("article", {},
    make("h3", {}, `${runName(run)}`),
    make("p", { class: "small" }, `${run.title}, in ${run.folder}. `,
      run.link === null ? "It has no report of its own: ad report makes one."
        : make("a", { href: run.link.split("/").map(encodeURIComponent).join("/") }, "Its own report, with pictures")),
    make("ul", { class: "notes" }, ...run.notes.map((note) => make("li", {}, note))),
    make("pre", { class: "command", tabindex: "0" }, run.command))));
}

at("title").textContent = data.title;
at("notes").append(...data.notes.map((text) => make("li", {}, text)));
at("figure").append(...data.figures.map(({ key, title }) => make("option", { value: key }, title)));
at("figure").addEventListener("change", showFigures);
showFigures();
showVerdicts();
showSettings();
showWrong();
showRuns();
