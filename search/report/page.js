"use strict";
const root = document.documentElement;
const media = matchMedia("(prefers-color-scheme: dark)");
const plots = JSON.parse(document.getElementById("plots").textContent);

// ---- light and dark

function dark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : media.matches;
}

function colours(layout, night) {
  const ink = night ? "#d8dee6" : "#24292f", grid = night ? "#3d444d" : "#e2e6ea";
  const change = { "font.color": ink };
  for (const key of Object.keys(layout).filter((k) => /^[xy]axis/.test(k)))
    for (const part of ["gridcolor", "linecolor", "zerolinecolor"]) change[key + "." + part] = grid;
  change["hoverlabel.bgcolor"] = night ? "#20262d" : "#ffffff";
  change["hoverlabel.font.color"] = ink;
  return change;
}

function paint(night) {
  for (const plot of document.querySelectorAll(".js-plotly-plot"))
    Plotly.relayout(plot, colours(plot.layout, night));
}

document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  paint(dark());
});
media.addEventListener("change", () => paint(dark()));

// ---- figures: drawn as they are scrolled to, all of them before printing

function draw(element) {
  if (element.dataset.drawn) return;
  element.dataset.drawn = "yes";
  element.style.minHeight = "";
  const figure = plots[element.id.slice("plot-".length)];
  // On a phone the front is to be seen whole: there the names of its members lie on each other.
  if (element.clientWidth < 600 && figure.layout.annotations)
    figure.layout.annotations = figure.layout.annotations
      .filter((one) => !/^trial \d/.test(one.text))
      .map((one) => ({ ...one, text: one.text.replace(/^exported: /, "") }));
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  Plotly.newPlot(element, figure.data, figure.layout, config);
  Plotly.relayout(element, colours(figure.layout, dark()));
}

const elements = [...document.querySelectorAll(".plot")];
for (const element of elements) {
  const height = (plots[element.id.slice("plot-".length)].layout || {}).height;
  if (height) element.style.minHeight = height + "px";
}
if (!("IntersectionObserver" in window)) elements.forEach(draw);
else {
  const watch = new IntersectionObserver(
    (seen) => {
      for (const one of seen)
        if (one.isIntersecting) {
          watch.unobserve(one.target);
          draw(one.target);
        }
    },
    { rootMargin: "800px" },
  );
  for (const element of elements) watch.observe(element);
}

// ---- paper is white, and has no pointer to open anything with

const paper = 1000; // pixels; the style for print makes them fit
let opened = [];
addEventListener("beforeprint", () => {
  elements.forEach(draw);
  paint(false);
  for (const one of elements) Plotly.relayout(one, { width: paper });
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => {
  paint(dark());
  for (const one of elements) Plotly.relayout(one, { width: null, autosize: true });
  for (const one of opened) one.open = false;
});
