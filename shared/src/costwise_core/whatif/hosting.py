"""From which load on a machine of one's own is cheaper than paying by the token."""

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from costwise_core.display_table import as_html, as_text, usd
from costwise_core.errors import ConfigError
from costwise_core.money import dollars, picodollars
from costwise_core.prices import PriceBook, shared_prices
from costwise_core.whatif.estimate import Load, exact_share

__all__ = ["SelfHosting", "self_host"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfHosting:
    """What machines of one's own cost beside paying by the token; `print` it for a table.

    Args:
        load: The requests.
        model: What answers them now.
        api: Dollars a period paid by the token.
        hosted: Dollars a period for the machines that the load needs.
        machines: How many these are.
        capacity: Requests a period that one machine can answer.
        break_even: Requests a period from which on machines are cheaper, however many it takes;
            None if a machine that does all it can costs more than paying by the token.
        formula: How it is counted.

    Example:
        >>> load = Load(requests=1_000_000, input_tokens=500, output_tokens=200)
        >>> found = self_host(load, "gpt-4o", usd_per_hour="2", tokens_per_second=1000)
        >>> found.machines, found.break_even, found.cheaper
        (1, 449231, 'machines')
    """

    load: Load
    model: str
    api: Decimal
    hosted: Decimal
    machines: int
    capacity: int
    break_even: int | None
    formula: str = (
        "machines x ($ an hour x hours + fixed $), machines = requests / capacity rounded up, "
        "capacity = output tokens a second x busy share x 3600 x hours / output tokens; "
        "cheaper where that is less than requests x price of a request"
    )

    @property
    def cheaper(self) -> str:
        """What costs less at this load: "machines" or "tokens"."""
        return "machines" if self.hosted < self.api else "tokens"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it; dollars are strings, to stay exact."""
        return {
            "model": self.model,
            "api_usd": f"{self.api:f}",
            "hosted_usd": f"{self.hosted:f}",
            "machines": self.machines,
            "capacity": self.capacity,
            "break_even": self.break_even,
            "cheaper": self.cheaper,
            "period": self.load.period,
            "formula": self.formula,
        }

    def __str__(self) -> str:
        """Return it as a table."""
        return as_text(self._heading(), self._rows(), notes=self._notes())

    def _repr_html_(self) -> str:
        return as_html(self._heading(), self._rows(), notes=self._notes())

    def _heading(self) -> str:
        if self.break_even is None:
            return f"{self.model} by the token costs less than machines at any load"
        return f"Machines cost less from {self.break_even:,} requests a {self.load.period} on"

    def _rows(self) -> list[tuple[str, ...]]:
        per_request = [
            usd(money / self.load.requests) if self.load.requests else "-"
            for money in (self.api, self.hosted)
        ]
        machines = f"{self.machines} machine{'s' if self.machines != 1 else ''}"
        return [
            ("", f"a {self.load.period}", "a request"),
            (f"{self.model} by the token", usd(self.api), per_request[0]),
            (machines, usd(self.hosted), per_request[1]),
        ]

    def _notes(self) -> list[str]:
        used = self.load.requests / (self.machines * self.capacity)
        return [
            f"one machine answers {self.capacity:,} requests a {self.load.period}",
            f"this load is {used:.0%} of what its machines can answer",
            self.formula,
            "people who keep them running are not in it",
        ]


def self_host(
    load: Load,
    model: str,
    *,
    usd_per_hour: Decimal | str | int,
    tokens_per_second: float,
    busy: float = 0.6,
    fixed_usd: Decimal | str | int = 0,
    prices: PriceBook | None = None,
) -> SelfHosting:
    """Return from which load on machines of one's own cost less than paying by the token.

    Args:
        load: The requests.
        model: What answers them now.
        usd_per_hour: Of a machine, rented or written off, power included.
        tokens_per_second: Output tokens that one produces, all its requests together.
        busy: Share of the time for which there is work: requests do not come evenly.
        fixed_usd: Dollars a period for each machine besides.
        prices: The price list; by default the one everything in this process prices with.

    Raises:
        ConfigError: if a number is not positive where it must be, or a request produces nothing.
        PriceError: if the model has no known price.

    Example:
        >>> load = Load(requests=10_000, input_tokens=500, output_tokens=200)
        >>> self_host(load, "gpt-4o-mini", usd_per_hour=2, tokens_per_second=1000).cheaper
        'tokens'
    """
    share = exact_share("busy", busy)
    hourly, fixed = Decimal(usd_per_hour), Decimal(fixed_usd)
    speed = Fraction(str(tokens_per_second))
    if hourly < 0 or fixed < 0 or speed <= 0 or not share:
        raise ConfigError(
            "usd_per_hour and fixed_usd must be at least 0, tokens_per_second and busy positive."
        )
    if not load.output_tokens:
        raise ConfigError("output_tokens must be positive, or a machine's capacity has no bound.")
    one = picodollars((prices or shared_prices()).cost(load.usage, model).usd)
    capacity = int(speed * share * 3600 * load.hours / load.output_tokens)
    if not capacity:
        raise ConfigError(f"a machine that slow answers no request in a {load.period}.")
    machine = picodollars(hourly) * load.hours + picodollars(fixed)
    machines = max(1, math.ceil(Fraction(load.requests, capacity)))
    return SelfHosting(
        load=load,
        model=model,
        api=dollars(one * load.requests),
        hosted=dollars(machine * machines),
        machines=machines,
        capacity=capacity,
        break_even=_break_even(one, machine, capacity),
    )


def _break_even(request: int, machine: int, capacity: int) -> int | None:
    """Return the number of requests from which on machines cost less, at every number above."""
    if request * capacity <= machine:
        return None
    # Costs of machines are steps. With k of them the dearest request is the first that needs the
    # k-th, number (k - 1) * capacity + 1; the last k at which even it costs more is this.
    last = (request * capacity - request) // (request * capacity - machine)
    return last * machine // request + 1
