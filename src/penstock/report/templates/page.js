"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");

function theme() {
  const style = getComputedStyle(document.documentElement);
  const [ink, faint, ground] = ["--ink", "--line", "--card"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: faint, linecolor: faint, zerolinecolor: faint, automargin: true };
  return {
    layout: {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, family: style.getPropertyValue("--font"), size: 12 },
      hoverlabel: { bgcolor: ground, bordercolor: faint, font: { color: ink } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: faint, activecolor: ink },
      margin: { l: 56, r: 16, t: 32, b: 44 },
      xaxis: axis,
      yaxis: axis,
    },
  };
}

function draw() {
  const buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
  for (const place of document.querySelectorAll("[data-plot]")) {
    const { data, layout } = JSON.parse(document.getElementById(place.dataset.plot).textContent);
    Plotly.react(place, data, { ...layout, template: theme() }, { responsive: true, modeBarButtons: buttons, displaylogo: false });
  }
}

dark.addEventListener("change", draw);
draw();
