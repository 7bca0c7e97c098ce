"""The closed forms of the laws: functions of a concentration and a dimension."""
