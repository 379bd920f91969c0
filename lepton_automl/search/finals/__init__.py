"""Train the best trials to the end and select the one that ships.

`finalists` chooses them and plans their trainings, `training` runs these, `results` reads what they
reached, `winner` saves the one that `selection` prefers.

- variants that are compared: `augmentation`; `flip_check`, which begins with a `mirror_test`
- `train_to_end`: one trial that was picked after the search
- `cross_validation` compares finalists on several folds where samples or groups are few
"""
