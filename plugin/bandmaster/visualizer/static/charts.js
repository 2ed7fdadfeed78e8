// The panels: of each what it shows of the series that were read, as lines over time or as points.

const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f"]; // Okabe & Ito
const POLICY = "the policy's choice";

const count = (courses, k) => Object.values(courses ?? {}).reduce((sum, course) => sum + course.n[k], 0);
const named = (courses) => Object.keys(courses ?? {});

// Lines of one series, its means as they are.
function means(data, series, rename = (name) => name, only = () => true) {
  return named(data.series[series]).filter(only).map((name) => {
    const course = data.series[series][name];
    return { name: rename(name), values: course.mean, low: course.low, high: course.high };
  });
}

// A line of shares: of all decisions, those that `part` counts.
function share(data, name, part) {
  return {
    name,
    values: data.at.map((_, k) => {
      const all = count(data.series.rows, k);
      return all ? part(k) / all : null;
    }),
  };
}

function one(data, series, name) {
  const course = data.series[series]?.[""];
  return course ? [{ name, values: course.mean }] : [];
}

export const PANELS = [
  {
    id: "reward", title: "Reward", unit: "a request",
    told: "What requests earned, by who answered; and what others would have, had they answered all: known where everybody was asked. Triangles are alarms.",
    lines: (data) => [
      ...means(data, "reward"),
      ...means(data, "alone", (name) => `${name} alone`, (name) => name === POLICY || name.includes("+")),
    ],
    events: true,
  },
  {
    id: "terms", title: "What the reward is made of", unit: "a request", stacked: true,
    told: "The weight of each metric times its term; together they are the reward.",
    lines: (data) => means(data, "term"),
  },
  {
    id: "members", title: "Members", unit: "share of requests", percent: true,
    told: "How many of the requests each member ran for.",
    lines: (data) => named(data.series.ran).map((name) => share(data, name, (k) => data.series.ran[name].n[k])),
  },
  {
    id: "weights", title: "Weights", unit: "by recent accuracy",
    told: "What each member counts for where members are weighed by their recent accuracy.",
    lines: (data) => means(data, "weight"),
  },
  {
    id: "right", title: "Members' accuracy", unit: "share right", percent: true,
    told: "How often each member was right, where its answer and the label are known.",
    lines: (data) => means(data, "right"),
  },
  { id: "frontier", title: "Accuracy and its price", points: true,
    told: "Up and to the left is better: members alone, all at once, and the policy, which is where it operates now." },
  {
    id: "latency", title: "Latency", unit: "s",
    told: "The time that plans took, and members where they ran.",
    lines: (data) => [...one(data, "latency", "the plan"), ...means(data, "ran")],
  },
  {
    id: "energy", title: "Energy", unit: "J a request",
    told: "For the reply and for probes, by where the figure is from.",
    lines: (data) => [...means(data, "energy"), ...means(data, "probe energy", (name) => `probe, ${name}`)],
  },
  {
    id: "exploring", title: "Exploring", unit: "share of requests", percent: true,
    told: "How often a plan was drawn that was not the most probable; how often everybody was asked; and how often the guard let the policy's choice answer.",
    lines: (data) => [
      ...one(data, "explored", "explored"), ...one(data, "probed", "probed"), ...one(data, "exposed", "policy answers"),
    ],
  },
  {
    id: "feedback", title: "Feedback", unit: "share of requests", percent: true,
    told: "Of the requests of each moment, those whose outcome has come by now.",
    lines: (data) => [share(data, "settled", (k) => count(data.series.reward, k))],
  },
  {
    id: "delay", title: "Feedback's delay", unit: "s",
    told: "How long after its decision an outcome came, on average.",
    lines: (data) => one(data, "delay", "delay"),
  },
  {
    id: "drift", title: "Drift and other alarms", alarms: true,
    told: "Each at its time, in the row of what noticed it; point at one to read its cause.",
  },
  {
    id: "failures", title: "Failures", unit: "share of calls", percent: true,
    told: "How often each member failed where it was asked.",
    lines: (data) => means(data, "failed"),
  },
];

// What a panel of points shows: names with their price and accuracy, over the whole window.
export function points(data) {
  const price = named(data.series["alone energy"]).length ? "energy" : "latency";
  const alone = data.series["alone accuracy"] ?? {};
  const found = named(alone).map((name) => ({
    name: name === POLICY ? "the policy" : name,
    price: data.series[`alone ${price}`]?.[name]?.whole.mean ?? null,
    accuracy: alone[name].whole.mean,
  }));
  return { price, unit: price === "energy" ? "J" : "s", points: found.filter((p) => p.price !== null && p.accuracy !== null) };
}

const short = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString());
export const figure = (value, percent) =>
  value === null || value === undefined ? "–" : percent ? `${(100 * value).toFixed(1)} %` : short(value);

function look(style) {
  const read = (name) => style.getPropertyValue(name).trim();
  return { text: read("--text"), soft: read("--soft"), line: read("--line"), back: read("--card") };
}

function framed(style, percent) {
  const { text, soft, line, back } = look(style);
  return {
    color: COLOURS, textStyle: { color: text }, animation: false,
    grid: { left: 8, right: 16, top: 40, bottom: 8, containLabel: true },
    legend: { type: "scroll", top: 0, textStyle: { color: text }, pageTextStyle: { color: text } },
    // Drawn, not as HTML: names are others' texts.
    tooltip: { renderMode: "richText", confine: true, backgroundColor: back, borderColor: line, textStyle: { color: text } },
    xAxis: { axisLabel: { color: soft, hideOverlap: true }, axisLine: { lineStyle: { color: line } } },
    yAxis: {
      type: "value", scale: true, axisLabel: { color: soft, formatter: (value) => (percent ? `${Math.round(100 * value)} %` : short(value)) },
      splitLine: { lineStyle: { color: line } },
    },
  };
}

// The option of a chart of lines.
export function course(panel, lines, data, events, style) {
  const frame = framed(style, panel.percent);
  const times = data.at.map((at) => at * 1000);
  const series = lines.map((line) => ({
    name: line.name, type: "line", showSymbol: data.at.length < 3, connectNulls: false,
    ...(panel.stacked ? { stack: "all", areaStyle: {} } : {}),
    data: line.values.map((value, k) => [times[k], value]),
  }));
  if (panel.events && series.length) {
    const inside = events.filter((event) => event.at * 1000 >= times[0]);
    series[0].markLine = {
      symbol: ["none", "triangle"], silent: true, label: { show: false }, lineStyle: { color: look(style).soft, type: "dotted" },
      data: inside.map((event) => ({ xAxis: event.at * 1000 })),
    };
  }
  return {
    ...frame, series,
    yAxis: { ...frame.yAxis, scale: !panel.percent && !panel.stacked },
    tooltip: { ...frame.tooltip, trigger: "axis", valueFormatter: (value) => figure(value, panel.percent) },
    xAxis: { ...frame.xAxis, type: "time", min: times[0], max: times.at(-1) + data.step * 1000 },
  };
}

// The option of a chart of points.
export function scatter(found, style) {
  const frame = framed(style, true);
  return {
    ...frame, legend: undefined, grid: { ...frame.grid, top: 16, right: 40 },
    tooltip: { ...frame.tooltip, formatter: ({ data }) => `${data.name}: ${figure(data.value[1], true)}, ${short(data.value[0])} ${found.unit}` },
    xAxis: { ...frame.xAxis, type: "log", name: `${found.price}, ${found.unit}`, nameLocation: "middle", nameGap: 28, splitLine: { show: false } },
    series: [{
      type: "scatter", symbolSize: 12,
      label: { show: true, position: "top", color: look(style).text, formatter: ({ data }) => data.name },
      labelLayout: { hideOverlap: true },
      data: found.points.map((p) => ({
        name: p.name, value: [p.price, p.accuracy],
        ...(p.name === "the policy" ? { symbol: "diamond", symbolSize: 18, itemStyle: { color: COLOURS[1] } } : {}),
      })),
    }],
  };
}

// The option of a chart of alarms: a row for each that noticed something.
export function alarms(data, events, style) {
  const frame = framed(style, false);
  const [from, to] = [data.at[0] * 1000, (data.at.at(-1) + data.step) * 1000];
  const inside = events.filter((event) => event.at * 1000 >= from && event.at * 1000 <= to);
  return {
    ...frame, legend: undefined, grid: { ...frame.grid, top: 16 },
    tooltip: { ...frame.tooltip, formatter: ({ data }) => `${data.name}: ${data.cause}` },
    xAxis: { ...frame.xAxis, type: "time", min: from, max: to },
    yAxis: { ...frame.yAxis, type: "category", data: [...new Set(inside.map((event) => event.name))], axisLabel: { color: look(style).soft, width: 160, overflow: "truncate" } },
    series: [{ type: "scatter", symbol: "triangle", symbolSize: 12, itemStyle: { color: COLOURS[1] },
      data: inside.map((event) => ({ name: event.name, cause: event.cause, value: [event.at * 1000, event.name] })) }],
  };
}
