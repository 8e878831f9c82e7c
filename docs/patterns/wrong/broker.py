# Circulates, and is wrong: ../broker.md says how. Not for copying.

import asyncio


class Broker:
    def __init__(self):
        self.queues = set()

    async def publish(self, payload):
        for queue in self.queues:
            queue.put_nowait(payload)

    def subscribe(self):
        queue = asyncio.Queue()
        self.queues.add(queue)
        return queue
