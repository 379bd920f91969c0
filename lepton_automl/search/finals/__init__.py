"""Train the best trials to the end and select the one that ships.

`finalists` chooses them and plans their trainings, `training` runs these, `winner` saves the one
that `selection` prefers.

- variants that are compared: `augmentation`; `flip_check`, which begins with a `mirror_test`
- `cross_validation` compares finalists on several folds where samples or groups are few
"""
