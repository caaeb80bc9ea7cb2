"""The bytes of a body that have arrived and are not stored yet, cut into lines."""


class LineTooLong(Exception):
    """A line is longer than a buffer allows."""


class LineBuffer:
    """Holds bytes in one piece: as separate lines they would take many times the memory.

    A line ends with LF. `size` is the number of bytes held, lines that were taken included.
    """

    __slots__ = ("_bytes", "_max_line_bytes", "_next", "_whole")

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._bytes: bytes | bytearray = b""
        self._next = 0  # where the next line begins
        self._whole = 0  # up to here lines are complete

    @property
    def size(self) -> int:
        return len(self._bytes)

    @property
    def has_lines(self) -> bool:
        """Whether there are complete lines that were not taken."""
        return self._next < self._whole

    @property
    def has_partial_line(self) -> bool:
        """Whether a line has begun and is not complete."""
        return self._whole < len(self._bytes)

    def add(self, piece: bytes) -> None:
        """Add bytes; raises LineTooLong if the incomplete line gets too long."""
        before = len(self._bytes)
        if not before:
            self._bytes = piece
        else:
            if isinstance(self._bytes, bytes):
                self._bytes = bytearray(self._bytes)  # which grows without being copied
            self._bytes += piece
        line_break = piece.rfind(b"\n")
        if line_break >= 0:
            self._whole = before + line_break + 1
        if len(self._bytes) - self._whole > self._max_line_bytes:
            raise LineTooLong

    def end(self) -> None:
        """Complete the last line, which needs no line break."""
        self._whole = len(self._bytes)

    def next_line(self) -> bytes | bytearray:
        """Take the next line, without its line break; raises LineTooLong.

        There must be one (`has_lines`).
        """
        end = self._bytes.find(b"\n", self._next, self._whole)
        if end < 0:  # the last line of the body
            end = self._whole
        line = self._bytes[self._next : end]
        self._next = end + 1
        if len(line) > self._max_line_bytes:
            raise LineTooLong
        return line

    def skip_lines(self) -> None:
        """Drop the complete lines that were not taken."""
        self._next = self._whole

    def compact(self) -> None:
        """Free the memory of taken lines, once no complete line is left."""
        if self._whole and not self.has_lines:
            self._bytes = self._bytes[self._whole :]
            self._next = self._whole = 0

    def clear(self) -> None:
        """Drop everything."""
        self._bytes = b""
        self._next = self._whole = 0
