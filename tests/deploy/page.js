// Draws the panels of a dashboard as Grafana does, as far as a picture in the documents needs it.

const CELL = 38;
const COLUMN = 1200 / 24;
const GAP = 6;
const BINARY = Array.from({ length: 40 }, (_, power) => 2 ** power);
const NAMED = {
    green: "#56a64b", red: "#e02f44", orange: "#ff780a", yellow: "#e0b400", blue: "#3274d9", purple: "#8f3bb8",
    text: "#24292e", transparent: "transparent",
};
const PALETTE = [
    "#56a64b", "#e0b400", "#3274d9", "#ff780a", "#e02f44", "#8f3bb8", "#19a3a3", "#b0632a",
    "#7c8791",
];

function scaled(value, base, names, digits = 3) {
    let index = 0;
    let rest = Math.abs(value);
    while (rest >= base && index < names.length - 1) {
        rest /= base;
        index += 1;
    }
    const shown = Number(rest.toPrecision(digits));
    return `${value < 0 ? "-" : ""}${shown}${names[index]}`;
}

function seconds(value) {
    if (value === 0) return "0 s";
    if (value < 1e-3) return `${Number((value * 1e6).toPrecision(3))} µs`;
    if (value < 1) return `${Number((value * 1e3).toPrecision(3))} ms`;
    if (value < 120) return `${Number(value.toPrecision(3))} s`;
    if (value < 7200) return `${Number((value / 60).toPrecision(3))} min`;
    return `${Number((value / 3600).toPrecision(3))} h`;
}

const UNITS = {
    s: seconds,
    short: (value) => scaled(value, 1000, ["", " K", " Mil"]),
    bytes: (value) => scaled(value, 1024, [" B", " KiB", " MiB", " GiB"]),
    Bps: (value) => scaled(value, 1000, [" B/s", " kB/s", " MB/s"]),
    eps: (value) => `${scaled(value, 1000, ["", "K"])} /s`,
    cps: (value) => `${scaled(value, 1000, ["", "K"])} /s`,
    reqps: (value) => `${scaled(value, 1000, ["", "K"])} /s`,
    cpm: (value) => `${scaled(value, 1000, ["", "K"])} /min`,
    percentunit: (value) => `${Number((100 * value).toPrecision(3))} %`,
};

function legend(format, labels) {
    return format.replace(/\{\{(\w+)\}\}/g, (_, name) => labels[name] ?? "");
}

async function read(prometheus, target, start, end, step) {
    const query = new URLSearchParams({ query: target.expr, start, end, step });
    const answer = await (await fetch(`${prometheus}/api/v1/query_range?${query}`)).json();
    if (answer.status !== "success") throw new Error(JSON.stringify(answer));
    return answer.data.result.map((series) => ({
        name: legend(target.legendFormat, series.metric),
        points: new Map(series.values.map(([at, value]) => [at, Number(value)])),
    }));
}

function colorOf(panel, name, index) {
    const override = panel.fieldConfig.overrides.find((each) => each.matcher.options === name);
    const color = override?.properties.find((each) => each.id === "color")?.value.fixedColor;
    return color ? NAMED[color] : PALETTE[index % PALETTE.length];
}

// The shape of a value over time, under it.
function drawShape(body, points, times, width, height, color) {
    const values = times.map((at) => (Number.isFinite(points.get(at)) ? points.get(at) : null));
    const highest = Math.max(...values.filter((each) => each !== null), 1e-9);
    const head = body.querySelector(".stats").offsetTop + body.querySelector(".stats").offsetHeight;
    new uPlot({
        width: width - 18,
        height: height - head - 4,
        legend: { show: false },
        cursor: { show: false },
        padding: [2, 0, 0, 0],
        scales: { y: { range: [0, highest * 1.05] } },
        axes: [{ show: false }, { show: false }],
        series: [{}, { stroke: color, fill: `${color}1f`, width: 1, points: { show: false } }],
    }, [times, values], body);
}

function drawStat(panel, body, series, times, width, height) {
    const { unit, mappings, thresholds } = panel.fieldConfig.defaults;
    const stats = body.appendChild(document.createElement("div"));
    stats.className = "stats";
    for (const { name, points } of series) {
        const value = [...points.values()].filter(Number.isFinite).at(-1);
        const mapped = mappings[0]?.options[String(value)];
        const step = thresholds.steps.filter((each) => each.value === null || value >= each.value);
        const shown = stats.appendChild(document.createElement("div"));
        shown.className = "stat";
        shown.style.color = NAMED[mapped?.color ?? step.at(-1).color];
        if (series.length > 1) {
            shown.appendChild(document.createElement("small")).textContent = name;
        }
        const text = value === undefined ? "No data" : (mapped?.text ?? UNITS[unit](value));
        shown.append(text);
    }
    if (panel.options.graphMode === "area") {
        const color = stats.lastElementChild.style.color.match(/\d+/g).map(Number);
        const text = `#${color.map((each) => each.toString(16).padStart(2, "0")).join("")}`;
        drawShape(body, series[0].points, times, width, height, text);
    }
}

function drawLegend(panel, body, series) {
    const line = body.appendChild(document.createElement("div"));
    line.className = "legend";
    series.forEach(({ name }, index) => {
        const item = line.appendChild(document.createElement("span"));
        const mark = item.appendChild(document.createElement("i"));
        mark.style.background = colorOf(panel, name, index);
        item.append(name);
    });
    return line.offsetHeight;
}

function drawLines(panel, body, series, times, width, height) {
    const { unit, custom, thresholds, min, max } = panel.fieldConfig.defaults;
    const isStacked = custom.stacking.mode === "normal";
    const under = times.map(() => 0);
    const values = series.map(({ points }) => times.map((at, index) => {
        const value = points.get(at);
        if (value === undefined || !Number.isFinite(value)) return null;
        return isStacked ? (under[index] += value) : value;
    }));
    const dashed = custom.thresholdsStyle.mode === "dashed" ? thresholds.steps.at(-1) : null;
    const highest = Math.max(0, ...values.flat().filter((each) => each !== null));
    const top = max ?? (dashed && dashed.value < 3 * highest
        ? Math.max(highest, dashed.value) * 1.08 : highest * 1.08 || 1);
    const lines = series.map(({ name }, index) => ({
        label: name,
        stroke: colorOf(panel, name, index),
        fill: colorOf(panel, name, index) + (isStacked ? "4d" : "14"),
        width: 1.2,
        points: { show: false },
    }));
    // Of stacked series the highest is drawn first, so that it does not hide the others.
    if (isStacked) {
        values.reverse();
        lines.reverse();
    }
    const legendHeight = drawLegend(panel, body, series);
    const format = UNITS[unit];
    const axis = { stroke: "#6a737d", grid: { stroke: "#eceff1", width: 1 }, ticks: { show: false },
        font: "10px 'DejaVu Sans'" };
    const drawThreshold = (plot) => {
        if (dashed === null || dashed.value > top) return;
        const { ctx, bbox } = plot;
        const y = plot.valToPos(dashed.value, "y", true);
        ctx.save();
        ctx.strokeStyle = NAMED.red;
        ctx.setLineDash([8, 6]);
        ctx.beginPath();
        ctx.moveTo(bbox.left, y);
        ctx.lineTo(bbox.left + bbox.width, y);
        ctx.stroke();
        ctx.restore();
    };
    new uPlot({
        width: width - 16,
        height: height - 32 - legendHeight,
        legend: { show: false },
        cursor: { show: false },
        scales: { y: { range: [min ?? 0, top] } },
        axes: [
            { ...axis, size: 20, space: 64, values: [[1, "{HH}:{mm}:{ss}", null, null, null, null, null, null, 1]] },
            {
                ...axis, size: 62, space: 26, values: (_, ticks) => ticks.map(format),
                ...(unit === "bytes" ? { incrs: BINARY } : {}),
            },
        ],
        series: [{}, ...lines],
        hooks: { draw: [drawThreshold] },
    }, [times, ...values], body);
}

// Draws the rows from the first to the last, both by their titles. Returns the panels
// without data, or with a series that has no name.
globalThis.draw = async (dashboard, prometheus, start, end, step, titles) => {
    const grid = document.getElementById("grid");
    grid.replaceChildren();
    const empty = [];
    let row = "";
    let top = null;
    let bottom = 0;
    const times = [];
    for (let at = start; at <= end; at += step) times.push(at);
    for (const panel of dashboard.panels) {
        row = panel.type === "row" ? panel.title : row;
        if (!titles.includes(row)) continue;
        const { x, y, w, h } = panel.gridPos;
        top ??= y;
        const width = w * COLUMN - GAP;
        const height = h * CELL - GAP;
        const element = grid.appendChild(document.createElement("div"));
        Object.assign(element.style, {
            left: `${x * COLUMN}px`, top: `${(y - top) * CELL}px`,
            width: `${width}px`, height: `${height}px`,
        });
        bottom = Math.max(bottom, (y - top + h) * CELL);
        if (panel.type === "row") {
            element.className = "row";
            element.textContent = panel.title;
            continue;
        }
        element.className = "panel";
        element.appendChild(document.createElement("h2")).textContent = panel.title;
        const found = await Promise.all(
            panel.targets.map((target) => read(prometheus, target, start, end, step)),
        );
        const series = found.flat();
        if (!series.length || series.some(({ name }) => !name)) empty.push(panel.title);
        if (panel.type === "stat") drawStat(panel, element, series, times, width, height);
        else drawLines(panel, element, series, times, width, height);
    }
    grid.style.height = `${bottom}px`;
    return empty;
};
