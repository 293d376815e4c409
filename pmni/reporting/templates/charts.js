// Charts with Plotly, which is unpacked and run when the first chart comes into view.

const drawnCharts = new Map();

function chartLayout(chart) {
  const [ink, muted, grid] = [style("--ink"), style("--muted"), style("--line")];
  const axis = (title, more) => ({
    title: { text: title, font: { size: 12, color: muted }, standoff: 8 }, gridcolor: grid, zerolinecolor: grid, linecolor: grid,
    tickfont: { size: 11, color: muted }, automargin: true, ...more,
  });
  const bars = chart.kind === "bar";
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", barmode: "stack", bargap: 0.35,
    font: { family: style("--sans"), size: 12, color: ink }, margin: { l: 8, r: 14, t: 8, b: 8 },
    height: chart.height ?? 270,
    xaxis: axis(chart.x, { type: chart.categories ? "category" : "linear", showgrid: bars || !chart.categories }),
    yaxis: axis(chart.y, { type: chart.log ? "log" : "-", rangemode: chart.log ? "normal" : "tozero", tickformat: chart.plain ? "~g" : "", autorange: bars ? "reversed" : true }),
    // where something changed: a dotted line with a word at its top
    shapes: (chart.marks ?? []).slice(1).map(({ x }) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: muted, width: 1, dash: "dot" } })),
    annotations: (chart.marks ?? []).map(({ x, text }) => ({ x, yref: "paper", y: 0, xanchor: "left", yanchor: "bottom", text, showarrow: false, font: { size: 11, color: muted } })),
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11.5 } },
    hovermode: bars ? "closest" : "x unified", hoverlabel: { bgcolor: style("--card"), bordercolor: grid, font: { family: style("--sans"), color: ink, size: 12 } },
  };
}

// Means over a window of neighbours, a twentieth of all.
function smoothed(values) {
  const reach = Math.round(values.length / 40);
  return values.map((value, i) => {
    const near = values.slice(Math.max(0, i - reach), i + reach + 1).filter((one) => one !== null);
    return value === null ? null : near.reduce((a, b) => a + b, 0) / near.length;
  });
}

function chartTraces(chart) {
  const colours = style("--series").split(/\s+/);
  return chart.traces.flatMap((trace, i) => {
    const colour = trace.colour ? style(trace.colour) : colours[i % colours.length];
    if (chart.kind === "bar")
      return { type: "bar", orientation: "h", name: trace.name, x: trace.x, y: trace.y, marker: { color: colour }, hovertemplate: `${trace.name}: %{x:.4~g} s<extra></extra>` };
    const line = { color: colour, width: 2, dash: trace.dash ?? "solid" };
    const mode = trace.mode ?? "lines";
    const drawn = { type: "scatter", mode, name: trace.name, x: trace.x, y: trace.y, line, marker: { color: colour, size: 7 }, hovertemplate: "%{y:.4~g}" };
    if (!chart.noisy) return drawn;
    const raw = { ...drawn, line: { color: colour, width: 1 }, opacity: 0.25, showlegend: false, hoverinfo: "skip", hovertemplate: null, legendgroup: trace.name };
    return [raw, { ...drawn, y: smoothed(trace.y), legendgroup: trace.name }];
  });
}

async function drawChart(host) {
  await library("plotly");
  const chart = report.charts[host.dataset.chart];
  const options = { displayModeBar: false, responsive: true };
  await Plotly.react(host, chartTraces(chart), chartLayout(chart), options);
  host.dataset.drawn = "yes";
  drawnCharts.set(host, chart);
}

function restyleCharts() {
  for (const host of drawnCharts.keys()) drawChart(host);
}
