"""The parameters that every strategy has, and their places in the `params` column."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from engine.ticks import MAX, PPM

FEE_BUY, FEE_SELL, FEE_SELL_CAP, STOP_LOSS, TAKE_PROFIT = range(5)
COMMON = 5

Ppm = Annotated[int, Field(ge=0, le=PPM)]


class Parameters(BaseModel):
    """Base of each strategy's parameter model.

    The columns of `params` are the fields in order, all integers, so that a million simulations need no JSON at night.
    A plain fee schedule sets both `fee_…_ppm`; the Grand Exchange's tax sets `fee_sell_ppm` and `fee_sell_cap` only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fee_buy_ppm: Ppm = 0
    fee_sell_ppm: Ppm = 0
    fee_sell_cap: int = Field(0, ge=0, le=MAX, description="ticks of money for each whole unit sold; 0: no cap")
    stop_loss_ppm: Ppm = Field(0, description="0: off")
    take_profit_ppm: int = Field(0, ge=0, le=10**9, description="0: off")

    def encode(self) -> list[int]:
        """The integers of the `params` column."""
        return [int(getattr(self, name)) for name in type(self).model_fields]
