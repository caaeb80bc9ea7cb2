// A program of a user, which must compile against the types. It is not run.
import {
  type Appender, Client, type Following, type NewEvent, type RunEvent, SseParser, TailraceError,
  follow,
} from "../../../clients/javascript/client.js";

const client = new Client("https://tailrace.example", {
  token: async () => "token",
  headers: { "X-Proxy": "mine" },
  retrySeconds: 5,
  credentials: "include",
});
new Client(new URL("https://tailrace.example"), { token: "token", fetch });
new Client("/", { token: () => null });

export async function use(signal: AbortSignal): Promise<string | null> {
  const following: Following = client.follow(1, {
    after: "latest", tail: 3, categories: ["llm"], actions: ["stream"], signal,
    onState(state) {
      if (state.state === "waiting") console.log(state.seconds.toFixed(), state.error?.message);
    },
  });
  for await (const event of following) {
    const { id, sequence, event: { category, action } }: RunEvent = event;
    console.log(id?.length, sequence?.toFixed(), category, action, event.data.text);
  }
  await client.followMany({ a: "earliest" }, { signal }).forEach(async (event) => console.log(event.run_id));
  await client.followRuns({ prefix: "a", tail: 2 }).forEach(() => {});
  await follow("https://tailrace.example/runs/1", { fromSequence: 2, token: "token" }).forEach(() => {});
  for await (const event of client.events("a", { order: "desc", limit: 5 })) console.log(event.source);
  for await (const run of client.runs({ state: "active" })) console.log(run.meta, run.ttl?.toFixed());
  const event: NewEvent = { event_category: "llm", event_action: "stream", data: [1], lease_seconds: 9 };
  const stored: RunEvent = await client.append("a", event, { idempotencyKey: "k", expectedSequence: 1, signal });
  const [first] = await client.appendMany("a", [event]);
  await client.request("a", "cancel", { by: stored.id, first: first?.sequence.toFixed() });
  const appender: Appender = client.appender(7, { expectedSequence: 1 });
  await appender.emit("llm", "stream", { text: "x" }, { source: null, leaseSeconds: 60 });
  await appender.close();
  console.log(appender.stored + appender.refused + appender.waiting, appender.lastId?.length);
  const state = await client.state("a", { signal });
  console.log(state?.state, (await client.openSession("token")).toFixed());
  await client.closeSession();
  for (const { event: name, data, lastEventId } of new SseParser("1-0").feed(new Uint8Array())) {
    console.log(name, data, lastEventId);
  }
  try {
    throw new TailraceError(503, "away", { retryAfter: 1 });
  } catch (error) {
    if (!(error instanceof TailraceError) || !error.isTemporary) throw error;
    console.log(error.status.toFixed(), error.problem.detail, error.retryAfter.toFixed());
  }
  return following.cursor;
}

// @ts-expect-error: a category is missing
client.append("a", { event_action: "stream" });
// @ts-expect-error: there is no such option
client.follow("a", { before: "1-0" });
// @ts-expect-error: the first argument is the URL
new Client();
// @ts-expect-error: it cannot be changed
client.follow("a").cursor = "1-0";
