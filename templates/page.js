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
