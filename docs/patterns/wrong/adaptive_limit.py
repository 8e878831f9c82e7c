# Circulates, and is wrong: ../adaptive_limit.md says how. Not for copying.

TOLERATED = 0.5  # seconds


class LatencyLimit:
    def __init__(self, limit=100):
        self.limit = limit

    def admit(self, in_flight):
        return in_flight < self.limit

    def finished(self, seconds):
        if seconds > TOLERATED:
            self.limit = max(20, self.limit * 0.9)
        else:
            self.limit = min(1000, self.limit + 1)
