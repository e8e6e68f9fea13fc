// Draws the plots of the page from the data beside them, and redraws them when something that they depend on changes.
(async () => {
  "use strict";
  const root = document.documentElement;
  const PRINTED = 700; // pixels across the text of an A4 page, at 96 to the inch
  const CONFIG = { displaylogo: false, displayModeBar: "hover", modeBarButtonsToRemove: ["select2d", "lasso2d"] };
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const plots = [];
  let printing = false;

  // --- what is packed ----------------------------------------------------------------------------------------------

  const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%:()*+-;.=,?@^_`{|}~";
  const VALUES = new Uint8Array(128);
  [...DIGITS].forEach((digit, value) => (VALUES[digit.charCodeAt(0)] = value));

  /** The text that an element holds deflated and in base 85; null where there is no such element. */
  async function unpacked(name) {
    const element = document.getElementById(name);
    if (!element) return null;
    const coded = element.textContent;
    const groups = Math.ceil(coded.length / 5);
    const view = new DataView(new ArrayBuffer(4 * groups));
    for (let group = 0; group < groups; group += 1) {
      let value = 0;
      for (let place = 5 * group; place < 5 * group + 5; place += 1) {
        value = 85 * value + (place < coded.length ? VALUES[coded.charCodeAt(place)] : 84);
      }
      view.setUint32(4 * group, value);
    }
    const bytes = new Uint8Array(view.buffer, 0, 4 * groups - (5 * groups - coded.length));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).text();
  }

  // --- what a plot looks like -------------------------------------------------------------------------------------

  /** A copy of a figure in which the style sheet's variables stand for their values. */
  function themed(value, style) {
    if (typeof value === "string" && value.startsWith("var(--")) {
      return style.getPropertyValue(value.slice(4, -1)).trim();
    }
    if (Array.isArray(value)) return value.map((entry) => themed(entry, style));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, themed(entry, style)]));
    }
    return value;
  }

  function common(layout, width) {
    const font = { family: "system-ui, sans-serif", size: 12.5, color: "var(--ink)" };
    Object.assign(layout, {
      width,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font,
      hoverlabel: { bgcolor: "var(--card)", bordercolor: "var(--soft)", font: { ...font, size: 13 }, align: "left" },
      dragmode: width < 600 ? false : "zoom", // a finger scrolls the page
    });
    for (const [key, axis] of Object.entries(layout)) {
      if (/^[xy]axis\d*$/.test(key)) {
        Object.assign(axis, {
          gridcolor: "var(--grid)",
          linecolor: "var(--line)",
          tickcolor: "var(--muted)",
          zerolinecolor: "var(--grid)",
          showline: true,
        });
      }
    }
  }

  function arrangePlane({ data, layout }, width) {
    const narrow = width < 600;
    layout.height = narrow ? 470 : Math.min(640, Math.max(420, (printing ? 0.7 : 0.78) * width));
    const bar = data.find((trace) => trace.colorbar)?.colorbar;
    const beside = bar && !narrow;
    layout.margin = { l: narrow ? 50 : 64, r: beside ? 108 : 14, t: 14, b: narrow && bar ? 122 : 56, autoexpand: false };
    for (const axis of [layout.xaxis, layout.yaxis]) {
      Object.assign(axis.title, { standoff: 6, font: { size: 13 } });
      if (narrow) axis.tickfont = { size: 11 };
    }
    if (bar && narrow) {
      Object.assign(bar, { orientation: "h", x: 0.5, y: -0.16, yanchor: "top", len: 1, thickness: 10 });
      bar.title.side = "bottom";
      bar.tickfont = { size: 11 };
    }
  }

  function arrangeCurves({ layout }, width) {
    const count = layout.meta.panels;
    const columns = width < 620 ? 1 : 2;
    const rows = Math.ceil(count / columns);
    const margin = { l: 52, r: 14, t: 34, b: 46 };
    const panel = columns === 1 ? 170 : 200;
    const between = 52;
    const inner = rows * panel + (rows - 1) * between;
    const across = width - margin.l - margin.r;
    Object.assign(layout, { margin, height: inner + margin.t + margin.b });
    for (let index = 0; index < count; index += 1) {
      const column = index % columns;
      const row = Math.floor(index / columns);
      const suffix = index === 0 ? "" : String(index + 1);
      const top = 1 - (row * (panel + between)) / inner;
      const gap = 70 / across;
      const wide = (1 - gap * (columns - 1)) / columns;
      const left = column * (wide + gap);
      layout[`xaxis${suffix}`].domain = [left, Math.min(1, left + wide)];
      layout[`yaxis${suffix}`].domain = [Math.max(0, top - panel / inner), top];
    }
  }

  /** Rings the chosen moment of a run, and leads from there to where the run was steered. */
  function pointer(moment) {
    const { place, target } = moment;
    const twice = (shape, width) => [
      { ...shape, line: { color: "var(--halo)", width: width + 3 } },
      { ...shape, line: { ...shape.line, color: "var(--ink)", width } },
    ];
    const ring = (at, r) => {
      const k = 0.5523 * r; // four Bézier curves make a circle; plotly refuses one with negative corners on a log axis
      const path = `M${r},0C${r},${k},${k},${r},0,${r}C${-k},${r},${-r},${k},${-r},0C${-r},${-k},${-k},${-r},0,${-r}C${k},${-r},${r},${-k},${r},0Z`;
      const anchor = { xsizemode: "pixel", ysizemode: "pixel", xanchor: at[0], yanchor: at[1] };
      return { type: "path", path, ...anchor };
    };
    const shapes = [];
    if (place && target) {
      const way = { type: "line", x0: place[0], y0: place[1], x1: target[0], y1: target[1], line: { dash: "dot" } };
      shapes.push(...twice(way, 1.8));
    }
    if (place) shapes.push(...twice(ring(place, 12), 2.4));
    if (target) shapes.push(...twice(ring(target, 6), 2), ...twice(ring(target, 1.5), 3));
    return shapes;
  }

  /** What is the same in several traces of a plane, or follows from its numbers, is sent once. */
  function completed(figure) {
    const field = figure.data.find((trace) => trace.meta?.field);
    if (!field) return figure;
    const { log, factor, digits, unit } = field.meta.field;
    const words = (value) => (factor * (log ? 10 ** value : value)).toFixed(digits) + unit;
    field.text = field.z.map((line) => line.map((value) => (value === null ? "" : words(value))));
    for (const trace of figure.data) {
      if (trace.meta === "outline") Object.assign(trace, { x: field.x, y: field.y, z: field.z });
    }
    return figure;
  }

  function draw(plot) {
    const figure = structuredClone(plot.figure);
    const { layout } = figure;
    const width = printing ? PRINTED : plot.box.clientWidth;
    common(layout, width);
    plot.arrange(figure, width);
    for (const trace of figure.data) {
      trace.visible = !plot.hidden.has(trace.legendgroup);
      if (plot.over) trace.x = trace.meta[plot.over];
    }
    if (plot.over) {
      for (let index = 0; index < layout.meta.panels; index += 1) {
        const axis = layout[index === 0 ? "xaxis" : `xaxis${index + 1}`];
        axis.ticksuffix = plot.over === "seconds" ? " s" : "";
        axis.tickformat = plot.over === "seconds" ? "" : "~s";
      }
      const last = layout.meta.panels - 1;
      layout[last ? `xaxis${last + 1}` : "xaxis"].title = { text: plot.over, standoff: 4 };
    }
    if (plot.moment) layout.shapes = pointer(plot.moment);
    layout.uirevision = plot.over ?? "plane"; // keeps what was zoomed into, until the axis is another
    const narrow = width < 600;
    if (plot.narrow !== undefined && plot.narrow !== narrow) Plotly.purge(plot.box); // else parts of the other form stay
    plot.narrow = narrow;
    plot.width = width;
    const style = getComputedStyle(root);
    const fresh = !plot.box.layout;
    Plotly.react(plot.box, themed(figure.data, style), themed(layout, style), CONFIG);
    if (fresh && plot.follow) for (const event of ["plotly_hover", "plotly_click"]) plot.box.on(event, plot.follow);
  }

  function drawAll() {
    for (const plot of plots) draw(plot);
  }

  // --- one moment of a run ----------------------------------------------------------------------------------------

  function stepper(section, plot) {
    const [which, when] = [section.querySelector(".which"), section.querySelector(".when")];
    const shown = section.querySelector(".moment");

    function show(group, index) {
      const moments = plot.runs[group];
      const chosen = Math.max(0, Math.min(index, moments.length - 1));
      which.value = group;
      when.max = moments.length - 1;
      when.value = chosen;
      when.setAttribute("aria-valuetext", `epoch ${moments[chosen].name}`);
      plot.moment = moments[chosen];
      shown.innerHTML = moments[chosen].card;
      if (plot.box.layout) {
        Plotly.relayout(plot.box, { shapes: themed(pointer(plot.moment), getComputedStyle(root)) });
      }
    }

    /** Begins with the last change, which has most to tell, or else where the run stands. */
    function begin(group) {
      const last = plot.runs[group].findLastIndex((moment) => moment.changed && moment.place);
      show(group, last < 0 ? Infinity : last);
    }

    const step = (by) => show(which.value, Number(when.value) + by);
    section.querySelector(".back").addEventListener("click", () => step(-1));
    section.querySelector(".on").addEventListener("click", () => step(1));
    when.addEventListener("input", () => step(0));
    which.addEventListener("change", () => begin(which.value));
    begin(which.value);
    return (event) => {
      const point = event.points.find((own) => own.data.meta === "journey");
      if (!point) return;
      const group = point.data.legendgroup;
      show(group, plot.runs[group].findIndex((moment) => moment.epoch === point.customdata));
    };
  }

  // --- the page ---------------------------------------------------------------------------------------------------

  const read = async (name) => JSON.parse(await unpacked(name));

  async function begin(section) {
    const number = section.dataset.section;
    const hidden = new Set();
    for (const chip of section.querySelectorAll(".chip")) {
      if (chip.getAttribute("aria-pressed") === "false") hidden.add(chip.dataset.group);
    }
    const own = [];
    const plane = await read(`plane-${number}`);
    if (plane) {
      completed(plane.figure);
      const plot = { ...plane, box: section.querySelector(".plane"), arrange: arrangePlane, hidden };
      plot.follow = stepper(section, plot);
      draw(plot);
      own.push(plot);
    }
    const curves = await read(`curves-${number}`);
    if (curves) {
      const plot = { ...curves, box: section.querySelector(".curves"), arrange: arrangeCurves, hidden, over: "examples" };
      draw(plot);
      own.push(plot);
      for (const choice of section.querySelectorAll('input[type="radio"]')) {
        choice.addEventListener("change", () => {
          plot.over = choice.value;
          draw(plot);
        });
      }
    }
    for (const chip of section.querySelectorAll(".chip")) {
      chip.addEventListener("click", () => {
        const show = hidden.delete(chip.dataset.group);
        if (!show) hidden.add(chip.dataset.group);
        chip.setAttribute("aria-pressed", String(show));
        own.forEach(draw);
      });
    }
    plots.push(...own);
  }

  function setTheme(name) {
    root.dataset.theme = name;
    button.setAttribute("aria-pressed", String(name === "dark"));
    drawAll();
  }

  const button = document.getElementById("theme");
  let chosen = null;
  const theme = () => chosen ?? (prefersDark.matches ? "dark" : "light");
  button.hidden = false;
  button.addEventListener("click", () => {
    chosen = theme() === "dark" ? "light" : "dark";
    setTheme(chosen);
  });
  prefersDark.addEventListener("change", () => setTheme(theme()));
  setTheme(theme());
  if (typeof DecompressionStream === "undefined") {
    document.getElementById("too-old").hidden = false;
    return;
  }
  const library = document.createElement("script");
  library.textContent = await unpacked("plotly");
  document.head.append(library);
  for (const section of document.querySelectorAll("section.task")) await begin(section);

  let folded = [];
  addEventListener("beforeprint", () => {
    printing = true;
    folded = [...document.querySelectorAll("details.run:not([open])")];
    for (const part of folded) part.open = true;
    setTheme("light");
  });
  addEventListener("afterprint", () => {
    printing = false;
    for (const part of folded) part.open = false;
    setTheme(theme());
  });
  new ResizeObserver(() => {
    if (!printing) plots.filter((plot) => plot.width !== plot.box.clientWidth).forEach(draw);
  }).observe(document.querySelector("main"));
})();
