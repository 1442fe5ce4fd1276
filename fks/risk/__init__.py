"""Sizing, rounding and pre-trade checks: the only maker of Approved and Denied."""
