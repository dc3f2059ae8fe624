"""Posts a run's evaluations to a chat's webhook, such as Slack's. Its URL is in DQN_WEBHOOK."""

import json
import os
import urllib.request

from atari_dqn.extend import Callback, Row, Training


class Webhook(Callback):
    def start(self, run: Training) -> None:
        self.url, self.name = os.environ["DQN_WEBHOOK"], run.folder.name
        self.post(f"started at {run.agent_steps:,} agent steps")

    def evaluation(self, row: Row) -> None:
        self.post(f"{row['agent_steps']:,} agent steps: mean return {row['mean']:.1f} over {row['episodes']} games")

    def post(self, text: str) -> None:
        data = json.dumps({"text": f"{self.name}: {text}"}).encode()
        request = urllib.request.Request(self.url, data, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=10).close()
