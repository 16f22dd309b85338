from penstock.infra.budget import render

FILE = "cloudformation/budget.yaml"


def test_the_budget_is_as_it_was(example, golden):
    assert render(example) == {FILE: golden(FILE)}


def test_each_percentage_is_an_alarm_and_so_is_the_forecast(changed):
    properties = render(changed("[50, 80, 100]", "[10, 90]"))[FILE]["Resources"]["Monthly"]["Properties"]
    alarms = [one["Notification"] for one in properties["NotificationsWithSubscribers"]]
    assert [(one["NotificationType"], one["Threshold"]) for one in alarms] == [
        ("ACTUAL", 10),
        ("ACTUAL", 90),
        ("FORECASTED", 100),
    ]
    assert properties["Budget"]["BudgetLimit"] == {"Amount": 500, "Unit": "USD"}
