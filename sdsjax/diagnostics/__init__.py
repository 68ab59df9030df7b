"""What tells whether to believe a number.

The variance and bias of a random gradient with error bars (`gradient_stats`, `moments`,
`variance_components`, `noise_projection`), metrics of pictures and shapes (`metrics`),
means with standard errors (`statistics`), line plots (`plots`). Pure functions; imports
the ground.
"""
