// Emmett on Node and PostgreSQL: a worker that speaks the protocol of `protocol.py`.
//
//     node emmett.mjs FOLDER_OF_NODE_MODULES
//
// Writers are promises that share its pool. Reads stop at objects.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const resolve = createRequire(join(folder, "worker.cjs")).resolve;
const load = (name) => import(pathToFileURL(resolve(name)).href);
const { getPostgreSQLEventStore, readMessagesBatch } = await load(
  "@event-driven-io/emmett-postgresql",
);
const { dumbo } = await load("@event-driven-io/dumbo");
const packages = ["@event-driven-io/emmett-postgresql", "pg"];

const event = JSON.parse(readFileSync(new URL("../payload.json", import.meta.url)));
// As in `contents.py`.
const CATEGORY = event.aggregate_type;
const LONG = { stream: `${CATEGORY}-long`, events: 10_000 };
const SHORT = { streams: 1_000, events: 10 };
const BULK = 1_000;
const PAGE = 1_000;

let store;
let pool;
let writers = 0;
let number = Math.floor(Math.random() * 2 ** 40);
let nextShort = 0;

function newEvent() {
  const id = (number++).toString(16).padStart(12, "0");
  return {
    type: event.event_type,
    data: { ...event.data },
    metadata: {
      ...event.metadata,
      correlation_id: `0192f3a1-6f6e-7c3b-9a54-${id}`,
      causation_id: `0192f3a1-6f70-7f11-8c1d-${id}`,
    },
  };
}

const newStreamId = () => `${CATEGORY}-${randomUUID()}`;

const append = (stream, version, count) =>
  store.appendToStream(stream, Array.from({ length: count }, newEvent), {
    expectedStreamVersion: version === 0 ? "STREAM_DOES_NOT_EXIST" : BigInt(version),
  });

async function readStream(stream, expected) {
  const { events } = await store.readStream(stream);
  return all(events.length, expected);
}

async function readFeed(count) {
  let done = 0;
  let after = 0n;
  while (done < count) {
    const batchSize = Math.min(PAGE, count - done);
    const { messages } = await readMessagesBatch(pool.execute, { after, batchSize });
    if (messages.length === 0) break;
    done += messages.length;
    const { globalPosition, checkpoint } = messages.at(-1).metadata;
    after = BigInt(globalPosition ?? checkpoint);
  }
  return all(done, count);
}

function all(count, expected) {
  if (count !== expected) throw new Error(`${count} events instead of ${expected}`);
  return count;
}

// Each does one call, and returns how many events it has written or read.
const operations = {
  async append({ events }) {
    await append(newStreamId(), 0, events);
    return events;
  },
  async bulk({ events }) {
    for (let done = 0; done < events; done += BULK) await append(newStreamId(), 0, BULK);
    return events;
  },
  async decide({ contended, conflicts }) {
    for (;;) {
      const { currentStreamVersion } = await store.readStream(contended);
      try {
        await append(contended, Number(currentStreamVersion), 1);
        return 1;
      } catch (error) {
        if (!/version/i.test(`${error.name} ${error.message}`)) throw error;
        conflicts.push(contended);
      }
    }
  },
  read_feed: ({ events }) => readFeed(events),
  read_long_stream: () => readStream(LONG.stream, LONG.events),
  read_short_stream: () =>
    readStream(`${CATEGORY}-short-${nextShort++ % SHORT.streams}`, SHORT.events),
};

async function run(request) {
  const operation = operations[request.operation];
  if (!operation) return { kind: "Skipped", reason: `${request.operation}: not driven here` };
  const turn = { events: request.events, contended: newStreamId(), conflicts: [] };
  const latencies = [];
  let events = 0;
  const now = () => performance.now() / 1000;
  const before = process.memoryUsage.rss();
  const start = now();
  const repeat = async () => {
    for (let calls = 0, at = start; at < start + request.seconds || calls < request.calls; calls++) {
      const began = now();
      const done = await operation(turn); // not "events += await": others add meanwhile
      events += done;
      at = now();
      latencies.push(at - began);
    }
  };
  await Promise.all(Array.from({ length: writers }, repeat));
  const seconds = now() - start;
  const peak = process.resourceUsage().maxRSS / 1024;
  return {
    kind: "Sample",
    events,
    seconds,
    latencies,
    conflicts: turn.conflicts.length,
    peak_mb: peak,
    grown_mb: Math.max(0, peak - before / 2 ** 20),
  };
}

async function open({ url, writers: count = 1 }) {
  store = getPostgreSQLEventStore(url);
  pool = dumbo({ connectionString: url });
  writers = count;
}

async function close() {
  await store?.close();
  await pool?.close();
  store = pool = undefined;
}

async function fill({ url, events }) {
  await open({ url });
  for (let version = 0; version < LONG.events; version += BULK) {
    await append(LONG.stream, version, BULK);
  }
  for (let version = 0; version < SHORT.events; version++) {
    for (let short = 0; short < SHORT.streams; short++) {
      await append(`${CATEGORY}-short-${short}`, version, 1);
    }
  }
  let other = 0;
  for (let done = LONG.events + SHORT.streams * SHORT.events; done < events; done += BULK) {
    await append(`${CATEGORY}-other-${other++}`, 0, Math.min(BULK, events - done));
  }
  await close();
}

function versions() {
  const read = (name) =>
    JSON.parse(readFileSync(join(folder, "node_modules", name, "package.json"))).version;
  return { Node: process.version, ...Object.fromEntries(packages.map((name) => [name, read(name)])) };
}

async function answer(request) {
  switch (request.kind) {
    case "Describe":
      return { kind: "Description", versions: versions() };
    case "SetUp":
      await open(request);
      await store.schema.migrate();
      await close();
      break;
    case "Fill":
      await fill(request);
      break;
    case "Open":
      await open(request);
      break;
    case "Run":
      return run(request);
    case "Close":
      await close();
      break;
  }
  return { kind: "Done" };
}

for await (const line of createInterface({ input: process.stdin })) {
  let reply;
  try {
    reply = await answer(JSON.parse(line));
  } catch (error) {
    console.error(error);
    reply = { kind: "Failed", reason: `${error.name}: ${error.message}`.split("\n")[0].slice(0, 300) };
  }
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
process.exit(0);
