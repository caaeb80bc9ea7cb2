/**
 * An event, in the shape of the HTTP reference. Control events have the category `gateway`.
 * JavaScript rounds integers beyond 2^53 in `data` and `source`: send them as texts.
 */
export interface RunEvent {
  /** The id of the entry in the log; null for a control event. */
  id: string | null;
  run_id: string | null;
  sequence: number | null;
  timestamp: string | null;
  event: { category: string | null; action: string | null };
  data: any;
  source: any;
  /** The trace of the producer (W3C Trace Context), if it has named one. */
  traceparent?: string;
}

/** An event to append. */
export interface NewEvent {
  event_category: string;
  event_action: string;
  data?: unknown;
  source?: unknown;
  /** The trace of the producer (W3C Trace Context); ignored if it is not valid. */
  traceparent?: string;
  /** The run is lost if nothing more comes for that long. */
  lease_seconds?: number | null;
}

/** The state of a run, in the shape of `GET /runs/{run_id}`. */
export interface RunState {
  run_id: string;
  state: "active" | "ended" | "lost";
  started_at: string | null;
  ended_at: string | null;
  last_event: { id: string; timestamp: string | null; event: RunEvent["event"] } | null;
  length: number;
  first_id: string | null;
  last_id: string | null;
  last_sequence: number;
  ended: boolean;
  ttl: number | null;
  /** How long the run may be silent; null without a lease. */
  lease_seconds: number | null;
  meta: any;
}

/**
 * A bearer token, or a function that returns one. The function is called when a token is first
 * needed, when the gateway refuses the last one, and when a stream says that it expires soon; its
 * argument names the last two. All requests share what it returned. A function that returns nothing lets
 * the browser send its cookie. What it throws reaches the caller; a TailraceError that is temporary
 * is repeated.
 */
export type Token =
  | string
  | ((reason?: "refused" | "expiring") => string | null | undefined | Promise<string | null | undefined>);

export interface ClientOptions {
  token?: Token;
  /** Sent with every request. */
  headers?: Record<string, string>;
  /** How long a request other than a stream is repeated. The default is 30. */
  retrySeconds?: number;
  /** For cookies across origins: "include". The default is "same-origin". */
  credentials?: RequestCredentials;
  /** Sends the requests in place of the global `fetch`. */
  fetch?: typeof fetch;
}

export interface Filter {
  /** Only events of these categories, and terminal events. */
  categories?: string[];
  /** Only events with these actions, and terminal events. */
  actions?: string[];
}

/** What a stream does: it connects, it is open, or it waits before it connects again. */
export type StreamState =
  | { state: "connecting" }
  | { state: "open" }
  | { state: "waiting"; seconds: number; error: TailraceError | null };

export interface StreamOptions extends Filter {
  /** Ends the stream. `for await` throws its reason, and `forEach` returns. */
  signal?: AbortSignal;
  onState?: (state: StreamState) => void;
}

export interface FollowOptions extends StreamOptions {
  /** An event id, "earliest" (the default) or "latest". */
  after?: string;
  /** Start this many events before the end instead. */
  tail?: number;
  /** Start at the event with this sequence instead. */
  fromSequence?: number;
}

/**
 * One open stream, over as many connections as it needs. It connects when it is first read.
 *
 * After any break it goes on behind the last event, without losing or repeating one. It yields
 * `gateway.caught_up`, `gateway.gap` and `gateway.reset` too. A gateway that is away, or answers
 * 408, 429 or 5xx, is asked again and again, after longer and longer pauses. A `break` closes the
 * connection; another loop then goes on where this one stopped. One loop at a time may read it.
 */
export interface Following extends AsyncIterable<RunEvent> {
  /** Where a new stream would go on: behind the last event; null if that is not known yet. */
  readonly cursor: string | null;
  /**
   * Call a function for each event. The promise resolves when the run has ended, or when the
   * signal aborts, and rejects with an error that no repeat can mend.
   */
  forEach(receive: (event: RunEvent) => void | Promise<void>): Promise<void>;
}

export interface AppendOptions {
  /** Makes a repeat safe. The client makes one if you give none. */
  idempotencyKey?: string;
  /** Append only if the (first) event gets this sequence. */
  expectedSequence?: number;
  /** The trace of the producer (W3C Trace Context), for events that name none of their own. */
  traceparent?: string;
  signal?: AbortSignal;
}

/** A message of a stream of Server-Sent Events. */
export interface SseMessage {
  event: string;
  data: string;
  /** The last id in the stream up to this message. */
  lastEventId: string;
}

export interface EventsOptions extends Filter {
  after?: string;
  before?: string;
  fromSequence?: number;
  order?: "asc" | "desc";
  /** At most this many events in all. */
  limit?: number;
  signal?: AbortSignal;
}

export interface RunsOptions {
  state?: "active" | "ended";
  prefix?: string;
  /** At most this many runs in all. */
  limit?: number;
  signal?: AbortSignal;
}

/**
 * Appends the events of one run in the background, in order and in batches of up to 1,000 events.
 *
 * A batch is repeated with one idempotency key until it is stored, or `retrySeconds` are over.
 * That, and a refusal of the whole run, is final: nothing more is sent. Events that are refused
 * by themselves (413, 422) are left out. When a page is hidden or goes away, the browser still
 * sends about 60,000 characters of what waits. In Node.js, wait for `close` before the end.
 */
export interface Appender {
  /**
   * Take an event. Resolves at once, unless 10,000 events or 8 Mi characters wait. Rejects with a
   * final error, and with that of data which JSON cannot hold.
   */
  emit(category: string, action: string, data?: unknown, options?: { source?: unknown; traceparent?: string; leaseSeconds?: number }): Promise<void>;
  /**
   * Resolves when all events so far are stored. Rejects with a final error, or with the first
   * refusal of an event since the last flush.
   */
  flush(): Promise<void>;
  /** Flush, and take no more events. */
  close(): Promise<void>;
  /** How many events are stored. */
  readonly stored: number;
  /** How many events the gateway has refused. */
  readonly refused: number;
  /** How many events are neither stored nor refused. */
  readonly waiting: number;
  readonly lastId: string | null;
  readonly lastSequence: number | null;
}

/** A connection to one gateway. */
export class Client {
  /**
   * `url` is that of the gateway, also behind a path prefix; in a browser it may be relative. A
   * user, a query and a fragment in it are ignored.
   */
  constructor(url: string | URL, options?: ClientOptions);
  /** Yield the events of a run until it has ended. */
  follow(runId: string | number, options?: FollowOptions): Following;
  /** Yield the events of up to 1,000 runs until all have ended; the values are cursors. */
  followMany(runs: Record<string, string>, options?: StreamOptions): Following;
  /** Yield how runs begin and end, without an end. Keep the `cursor` to go on, not an id. */
  followRuns(options?: { after?: string; tail?: number; prefix?: string; signal?: AbortSignal; onState?: StreamOptions["onState"] }): Following;
  /** Yield the history, read page by page. */
  events(runId: string | number, options?: EventsOptions): AsyncGenerator<RunEvent, void, void>;
  /** Yield the runs, the latest activity first. */
  runs(options?: RunsOptions): AsyncGenerator<RunState, void, void>;
  /** Return the state of a run, null if it has no log. */
  state(runId: string | number, options?: { signal?: AbortSignal }): Promise<RunState | null>;
  append(runId: string | number, event: NewEvent, options?: AppendOptions): Promise<RunEvent>;
  /** Append 1 to 1,000 events, all or none. */
  appendMany(runId: string | number, events: NewEvent[], options?: AppendOptions): Promise<{ id: string; sequence: number }[]>;
  appender(runId: string | number, options?: { expectedSequence?: number }): Appender;
  /** Request something of the producer of a run, such as "cancel". */
  request(runId: string | number, action: string, data?: unknown, options?: AppendOptions): Promise<RunEvent>;
  /** Set the cookie of this browser from a bearer token; returns for how many seconds it holds. */
  openSession(token: string): Promise<number>;
  closeSession(): Promise<void>;
}

/** Follow a run by the URL of the run, such as `https://tailrace.example/runs/1`. */
export function follow(runUrl: string | URL, options?: FollowOptions & ClientOptions): Following;

/**
 * A refusal, with the problem document of the gateway; or that there was no response, or none of a
 * gateway. A redirect is a refusal too, since another server must not get the token.
 */
export class TailraceError extends Error {
  constructor(status: number, detail: string, more?: { problem?: Record<string, any>; retryAfter?: number; cause?: unknown });
  /** The HTTP status; 0 if there was no response; 302 for a redirect whose status is hidden. */
  readonly status: number;
  /** The problem document (RFC 9457). */
  readonly problem: Record<string, any>;
  /** Whether a repeat may help: no response, 408, 429 or 5xx. */
  readonly isTemporary: boolean;
  /** The seconds of `Retry-After`; 0 without it. */
  readonly retryAfter: number;
  /** The id of the request, as in the log of the gateway, if it is known. */
  readonly requestId: string | undefined;
}

/** Parses Server-Sent Events (section 9.2 of the HTML Living Standard), in pieces of any size. */
export class SseParser {
  /** A stream that goes on after another one begins with its last id. */
  constructor(lastEventId?: string);
  /** How long the server asks to wait before the next connection. */
  readonly retrySeconds: number | null;
  /** Take the next piece of the stream, and return the messages that it completes. */
  feed(piece: Uint8Array): SseMessage[];
}
