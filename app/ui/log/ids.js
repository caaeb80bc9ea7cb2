/** Event ids: milliseconds and a counter, which compare as two numbers. */

const MAX_COUNTER = "18446744073709551615";

export function millisecondsOf(id) {
  return Number(id.slice(0, id.indexOf("-")));
}

/** Return a negative number, 0 or a positive number, as `sort` wants it. */
export function compareIds(one, other) {
  const [ms, counter] = one.split("-");
  const [otherMs, otherCounter] = other.split("-");
  return compareNumbers(ms, otherMs) || compareNumbers(counter, otherCounter);
}

/** Return the id right before one, so that "after" it means "from the other on". */
export function idBefore(id) {
  const [ms, counter] = id.split("-").map(BigInt);
  return counter > 0n ? `${ms}-${counter - 1n}` : `${ms > 0n ? ms - 1n : 0n}-${ms > 0n ? MAX_COUNTER : 0}`;
}

// A counter may have more digits than a double holds.
function compareNumbers(one, other) {
  return one.length - other.length || (one < other ? -1 : one > other ? 1 : 0);
}
