# Circulates, and is wrong: ../adaptive_limit.md says how. Not for copying.


class LatencyLimit:
    def __init__(self, limit=100, tolerated=0.5):
        self.limit, self.tolerated = limit, tolerated

    def admit(self, in_flight):
        return in_flight < self.limit

    def finished(self, seconds):
        if seconds > self.tolerated:
            self.limit = max(20, self.limit * 0.9)
        else:
            self.limit = min(1000, self.limit + 1)
