"use strict";
// Plotly's button that sends a plot to its makers' cloud is left out: a run is nobody else's business.
const options = {
  responsive: true,
  displaylogo: false,
  showSendToCloud: false,
  plotlyServerURL: "",
  modeBarButtonsToRemove: ["lasso2d", "select2d"],
};
// ---- plots

const drawn = [];
const shown = new Map(); // what the controls say, so that it outlasts a page that is loaded again

function drawPlots(root) {
  for (const source of root.querySelectorAll("script[data-plot]")) {
    const figure = JSON.parse(source.textContent);
    const bar = figure.still ? { displayModeBar: false } : {};
    const element = document.getElementById(source.dataset.plot);
    // Plotly changes what it is given, and the controls need the values as they were.
    const { data, layout } = structuredClone(figure);
    Plotly.newPlot(element, data, layout, { ...options, ...bar });
    if (figure.axes.length) drawn.push({ element, figure });
  }
  for (const controls of root.querySelectorAll("[data-controls]")) {
    for (const field of controls.elements) {
      if (shown.has(field.name)) Object.assign(field, shown.get(field.name));
      field.addEventListener("input", () => {
        shown.set(field.name, field.type === "checkbox" ? { checked: field.checked } : { value: field.value });
        applyControls(controls);
      });
    }
    if (shown.size) applyControls(controls);
  }
}

// A mean of the values before, each weighing `weight` times as much as the one after it; gaps stay gaps.
function smooth(values, weight) {
  let [sum, total] = [0, 0];
  return values.map((value) => {
    if (value === null) return null;
    [sum, total] = [sum * weight + value, total * weight + 1];
    return sum / total;
  });
}

const AXES = { iteration: "iteration", tokens: "tokens of this run", hours: "hours since the run began" };

function applyControls(controls) {
  const { axis, logx, logy, smoothing } = controls.elements;
  const over = axis ? axis.value : "iteration";
  const weight = Number(smoothing.value) / 100;
  controls.querySelector("output").textContent = weight ? `${smoothing.value} %` : "none";
  for (const { element, figure } of drawn) {
    const x = figure.data.map((trace, at) => (over === "iteration" ? trace.x : figure.axes[at][over]));
    const y = figure.data.map((trace) =>
      weight && trace.meta !== "band" && trace.mode !== "markers" ? smooth(trace.y, weight) : trace.y,
    );
    const given = figure.layout.yaxis.range;
    const layout = {
      "xaxis.title.text": AXES[over],
      "xaxis.type": logx.checked ? "log" : "linear",
      "xaxis.autorange": true,
      "yaxis.type": logy.checked ? "log" : "linear",
      ...(given && !logy.checked ? { "yaxis.range": [...given] } : { "yaxis.autorange": true }),
    };
    Plotly.update(element, { x, y }, layout);
  }
}

// Tables whose rows a click on a column sorts: numbers by value, behind them all else by letters, empty cells last.
const value = (row, column) => row.cells[column].textContent.trim();
const UNITS = ["", "k", "m", "g", "t", "p"];
// What `1,024`, `12/20`, `1.2 GB`, `900 MiB`, `0:01:10` and `2d 03:00:00` begin with; NaN for other texts.
function number(text) {
  const time = text.match(/^(?:(\d+)d )?(\d+):(\d\d):(\d\d)$/);
  if (time) return time.slice(1).reduce((sum, part, place) => sum * [1, 24, 60, 60][place] + Number(part ?? 0), 0);
  const found = text.match(/^([-+]?[0-9.,]+(?:[eE][-+]?[0-9]+)?)(?:\s*([kKMGTP]?)(i?)B\b)?/);
  if (!found) return NaN;
  const [, digits, unit = "", binary] = found;
  return parseFloat(digits.replaceAll(",", "")) * (binary ? 1024 : 1000) ** UNITS.indexOf(unit.toLowerCase());
}
function compare(one, other) {
  if (one === "" || other === "") return (one === "") - (other === "");
  const [a, b] = [number(one), number(other)];
  if (Number.isNaN(a) !== Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
  return a - b || one.localeCompare(other);
}
function sortTables(root) {
  for (const table of root.querySelectorAll("table[data-sortable]")) sortTable(table);
}
function sortTable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].sort((one, other) => {
        const [a, b] = [value(one, column), value(other, column)];
        return a === "" || b === "" || !down ? compare(a, b) : compare(b, a);
      });
      table.tBodies[0].append(...rows);
    };
    head.querySelector("button").addEventListener("click", sort);
  });
}
function filterTables(root) {
  for (const field of root.querySelectorAll("input[data-filter]")) {
    const rows = [...document.getElementById(field.dataset.filter).tBodies[0].rows];
    const count = document.querySelector(`[data-count="${field.dataset.filter}"]`);
    const show = () => {
      const words = field.value.toLowerCase().split(/\s+/).filter((word) => word);
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
      count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
    };
    field.addEventListener("input", show);
    show();
  }
}

function prepare(root) {
  drawn.length = 0;
  drawPlots(root);
  sortTables(root);
  filterTables(root);
}
prepare(document);
