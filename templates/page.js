"use strict";
// Plotly's button that sends a plot to its makers' cloud is left out: a run is nobody else's business.
const options = {
  responsive: true,
  displaylogo: false,
  showSendToCloud: false,
  plotlyServerURL: "",
  modeBarButtonsToRemove: ["lasso2d", "select2d"],
};
for (const source of document.querySelectorAll("script[data-plot]")) {
  const figure = JSON.parse(source.textContent);
  const bar = figure.still ? { displayModeBar: false } : {};
  Plotly.newPlot(source.dataset.plot, figure.data, figure.layout, { ...options, ...bar });
}

// Tables whose rows a click on a column sorts: numbers by value, all else by letters, empty cells last.
const value = (row, column) => row.cells[column].textContent.trim();
const number = (text) => (/^[-+]?[0-9.,]+([eE][-+]?[0-9]+)?/.test(text) ? parseFloat(text.replaceAll(",", "")) : NaN);
const compare = (one, other) => {
  if (one === "" || other === "") return (one === "") - (other === "");
  const [a, b] = [number(one), number(other)];
  return Number.isNaN(a) || Number.isNaN(b) ? one.localeCompare(other) : a - b;
};
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.tabIndex = 0;
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
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}
for (const field of document.querySelectorAll("input[data-filter]")) {
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
