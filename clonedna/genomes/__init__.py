"""Find and compose blocks for a need: read a request as skills, rank layers, predict and measure what they bring, plan, assemble, watch."""
