"""Parts of a data set: drawn or cut in time, with groups and near duplicates kept together."""
