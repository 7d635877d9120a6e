"""What a run leaves behind: every parameter and every state slot after every step, as numpy arrays."""

import numpy as np

PARAMETER = "parameter"

# (kind, parameter name) -> one array for each step; kind is PARAMETER or torch's name of a state slot.
Trace = dict[tuple[str, str], list[np.ndarray]]


class Recorder:
    """Collects a trace step by step."""

    def __init__(self):
        self._steps: list[dict[tuple[str, str], np.ndarray]] = []

    def add(self, parameters: dict[str, np.ndarray], state: dict[str, dict[str, np.ndarray]]):
        """Keep a copy of the parameters, and of the state by parameter and slot, after a step."""
        now = {(PARAMETER, name): np.array(value) for name, value in parameters.items()}
        now |= {(slot, name): np.array(value) for name, slots in state.items() for slot, value in slots.items()}
        self._steps.append(now)

    def trace(self) -> Trace:
        """The trace; state that an optimizer had not made yet at some step was zero then."""
        keys = dict.fromkeys(key for step in self._steps for key in step)
        last = {key: value for step in self._steps for key, value in step.items()}
        return {key: [step[key] if key in step else np.zeros_like(last[key]) for step in self._steps] for key in keys}
