/** An event, in the shape of the HTTP reference. Control events have the category `gateway`. */
export interface RunEvent {
  /** The id of the entry in the log; null for a control event. */
  id: string | null;
  run_id: string | null;
  sequence: number | null;
  timestamp: string | null;
  event: { category: string | null; action: string | null };
  data: any;
  source: any;
}

/** An event to append. */
export interface NewEvent {
  event_category: string;
  event_action: string;
  data?: unknown;
  source?: unknown;
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
 * argument says which. A function that returns nothing lets the browser send its cookie.
 */
export type Token =
  | string
  | ((reason: "needed" | "refused" | "expiring") => string | null | undefined | Promise<string | null | undefined>);

export interface ClientOptions {
  token?: Token;
  /** Sent with every request. */
  headers?: Record<string, string>;
  /** How long a request other than a stream is repeated. The default is 30. */
  retrySeconds?: number;
  /** For cookies across origins. The default is "same-origin". */
  credentials?: RequestCredentials;
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
  | { state: "waiting"; seconds: number; error: Error | null };

export interface StreamOptions extends Filter {
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

/** One open stream, over as many connections as it needs. It connects when it is first read. */
export interface Following extends AsyncIterable<RunEvent> {
  /** Where a new stream would go on; null before the first event. */
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
  signal?: AbortSignal;
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

/** Appends the events of one run in the background, in order and in batches. */
export interface Appender {
  /** Take an event. Resolves at once, unless too many events wait; rejects with a final error. */
  emit(category: string, action: string, data?: unknown, options?: { source?: unknown; leaseSeconds?: number }): Promise<void>;
  /** Resolves when all events so far are stored. */
  flush(): Promise<void>;
  /** Flush, and take no more events. */
  close(): Promise<void>;
  /** How many events are stored. */
  readonly stored: number;
  readonly lastId: string | null;
  readonly lastSequence: number | null;
}

/** A connection to one gateway. */
export class Client {
  /** `url` is that of the gateway, also behind a path prefix; in a browser it may be relative. */
  constructor(url: string | URL, options?: ClientOptions);
  /** Yield the events of a run until it has ended. */
  follow(runId: string | number, options?: FollowOptions): Following;
  /** Yield the events of up to 1,000 runs until all have ended; the values are cursors. */
  followMany(runs: Record<string, string>, options?: StreamOptions): Following;
  /** Yield how runs begin and end, without an end. */
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

/** A refusal, with the problem document of the gateway. */
export class TailraceError extends Error {
  /** The HTTP status; 0 if there was no response. */
  readonly status: number;
  /** The problem document (RFC 9457). */
  readonly problem: Record<string, any>;
}
