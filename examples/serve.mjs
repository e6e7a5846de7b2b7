// Forecasts from raw bars by an export alone, in Node: node serve.mjs RUN/export AAPL.csv
//
// Needs `npm install onnxruntime-node` (with --ignore-scripts it fetches nothing for CUDA). The CSV has the columns
// date, open, high, low, close, volume and, where there is one, adj_close; oldest first. The numbers are serve.py's.

import { readFileSync } from "node:fs";
import { basename, extname, join } from "node:path";
import { createRequire } from "node:module";

// from the folder where it is started, so that this file can lie anywhere
const ort = createRequire(join(process.cwd(), "package.json"))("onnxruntime-node");

const DAY = 86_400;
const SPLIT = 1.2; // a larger jump of adj_close / close from one bar to the next is a split, a smaller one a dividend

class BadBars extends Error {}

function readCsv(text) {
  const lines = text.replace(/^\uFEFF/, "").split(/\r?\n/).filter((line) => line.trim());
  const rows = lines.map((line) => line.split(",").map((cell) => cell.trim().replace(/^"(.*)"$/, "$1")));
  const header = (rows.shift() ?? []).map((name) => name.toLowerCase().replace(/[ _]+/g, "_"));
  if (!rows.length) throw new BadBars("there are no bars");
  rows.forEach((row, i) => {
    if (row.length !== header.length)
      throw new BadBars(`row ${i + 1} has ${row.length} values, the header ${header.length}`);
  });
  return Object.fromEntries(header.map((name, i) => [name, rows.map((row) => row[i])]));
}

function numbers(name, values) {
  return values.map((value, i) => {
    if (value === "" || !Number.isFinite(Number(value)))
      throw new BadBars(`row ${i + 1}: ${name} is '${value}', not a number`);
    return Number(value);
  });
}

function seconds(text, row) {
  const found = /^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?$/.test(text)
    ? Date.parse(`${text.length > 10 ? text.replace(" ", "T") : `${text}T00:00`}Z`) / 1000
    : NaN;
  // Date.parse takes 2024-02-30 for March 1
  if (!Number.isFinite(found) || !new Date(1000 * found).toISOString().startsWith(text.slice(0, 10)))
    throw new BadBars(`row ${row + 1}: date is '${text}', not one such as 2024-01-31`);
  return found;
}

// Prices times adj_close / close; volume in shares of the first bar.
function adjust(columns, adjClose) {
  const factor = adjClose.map((value, i) => value / columns[3][i]);
  let shares = 1;
  const volume = columns[4].map((value, i) => {
    const jump = i ? factor[i - 1] / factor[i] : 1;
    if (Math.max(jump, 1 / jump) > SPLIT) shares *= jump;
    return value * shares;
  });
  return [...columns.slice(0, 4).map((column) => column.map((value, i) => value * factor[i])), volume];
}

function check(columns, text, time) {
  const [open, high, low, close, volume] = columns;
  text.forEach((day, i) => {
    const refuse = (why) => {
      throw new BadBars(`row ${i + 1} (${day}): ${why}`);
    };
    if (i && time[i] <= time[i - 1]) refuse(`it follows ${text[i - 1]}; dates must increase, each once`);
    if (Math.min(open[i], high[i], low[i], close[i]) <= 0) refuse("a price is 0 or below");
    if (volume[i] < 0) refuse("the volume is below 0");
    if (high[i] < low[i] * (1 - 1e-6)) refuse("the high is below the low");
    if (Math.max(open[i], close[i]) > high[i] * 1.005 || Math.min(open[i], close[i]) < low[i] * 0.995)
      refuse("open or close is outside low to high");
  });
}

async function forecast(folder, symbol, table) {
  const manifest = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8"));
  const about = manifest.bars;
  if (!about) throw new BadBars(`${folder} can't start from raw bars: ${manifest.bars_unavailable}`);
  for (const name of ["date", ...about.columns])
    if (!(name in table)) throw new BadBars(`the column ${name} is missing`);
  const text = about.daily ? table.date.map((value) => value.slice(0, 10)) : table.date;
  const time = text.map(seconds);
  let columns = about.columns.map((name) => numbers(name, table[name]));
  check(columns, text, time);
  if (about.adjust && "adj_close" in table) columns = adjust(columns, numbers("adj_close", table.adj_close));
  let first = 0; // nothing is known about what lies in a gap
  time.forEach((value, i) => {
    if (i && value - time[i - 1] > about.max_gap_days * DAY) first = i;
  });
  const count = time.length - first;
  if (count < about.history_bars.least)
    throw new BadBars(`${count} bars, where the model needs ${about.history_bars.least}`);
  const bars = new Float64Array(5 * count);
  columns.forEach((column, k) => column.slice(first).forEach((value, i) => (bars[5 * i + k] = value)));
  const options = { intraOpNumThreads: 1 };
  const features = await ort.InferenceSession.create(join(folder, about.features), options);
  const model = await ort.InferenceSession.create(join(folder, "model.onnx"), options);
  const found = await model.run(
    await features.run({
      time: new ort.Tensor("int64", BigInt64Array.from(time.slice(first), BigInt), [1, count]),
      bars: new ort.Tensor("float64", bars, [1, count, 5]),
    }),
  );
  return manifest.horizons.map((horizon, h) => {
    const made = { symbol, date: text.at(-1), horizon };
    made[manifest.forecast] = found.ret.data[h];
    made.up_prob = found.up_prob.data[h];
    if (manifest.interval && found.quantiles) {
      const { places, widening } = manifest.interval;
      const of = (place) => found.quantiles.data[h * found.quantiles.dims[2] + place];
      made.ret_p10 = Math.min(of(places.low) - widening[h], of(places.middle));
      made.ret_p90 = Math.max(of(places.high) + widening[h], of(places.middle));
    }
    return made;
  });
}

const [folder, file] = process.argv.slice(2);
try {
  if (!file) throw new BadBars("usage: node serve.mjs RUN/export BARS.csv");
  const symbol = basename(file, extname(file));
  for (const one of await forecast(folder, symbol, readCsv(readFileSync(file, "utf8"))))
    console.log(JSON.stringify(one));
} catch (error) {
  if (!(error instanceof BadBars) && !error.code) throw error;
  console.error(`serve.mjs: ${error.message}`);
  process.exitCode = 1;
}
