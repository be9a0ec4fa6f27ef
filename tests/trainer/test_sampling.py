"""From prompts to scored samples, with stand-ins that return responses and rewards in any order."""

from verl.trainer.sampling import make_requests, sample_and_score
from verl.types import Prompt, Reward, Rollout, Sampling


class Backwards:
    """Both pools: the last request is answered first, every second reward only when it is waited for."""

    def __init__(self):
        self.late, self.early = [], []

    def generate(self, requests):
        for request in reversed(requests):
            ids = [request.request_id + 100]
            yield [Rollout(request.request_id, request.prompt_ids, ids, [0.0], [1], "stop", 0)]

    def submit(self, items):
        for item in items:
            scored = (item.request_id, Reward(float(item.request_id), 0.0))
            (self.late if item.request_id % 2 else self.early).append(scored)

    def finished(self):
        found, self.early = self.early, []
        return found

    def results(self):
        yield from self.finished()
        yield from self.late


def test_groups_are_handed_on_complete_and_once():
    prompts = [Prompt(index, [], [index], "s", "") for index in (7, 3, 5)]
    handed, pool = [], Backwards()
    samples = sample_and_score(
        prompts, 2, Sampling(), 0, pool, pool, decode=lambda ids: f"text {ids[0]}", on_group=handed.append
    )
    assert [sample.rollout.request_id for sample in samples] == list(range(6))
    assert [sample.uid for sample in samples] == ["0", "0", "1", "1", "2", "2"]
    assert [sample.prompt.index for sample in samples] == [7, 7, 3, 3, 5, 5]
    assert [sample.response_text for sample in samples] == [f"text {100 + i}" for i in range(6)]
    assert [sample.reward.score for sample in samples] == [0, 1, 2, 3, 4, 5]
    assert sorted(handed, key=lambda group: group[0].uid) == [samples[0:2], samples[2:4], samples[4:6]]


def test_seeds_depend_on_the_row_and_the_copy_not_on_the_place_in_the_batch():
    a, b = (Prompt(index, [], [index], "s", "") for index in (7, 3))
    seeds = {(r.prompt_ids[0], r.request_id % 2): r.seed for r in make_requests([a, b], 2, Sampling(), 1)}
    assert len(set(seeds.values())) == 4
    assert {(r.prompt_ids[0], r.request_id % 2): r.seed for r in make_requests([b, a], 2, Sampling(), 1)} == seeds
