"""A monthly budget whose alarms reach a person before the money is spent.

Source: CloudFormation, ``AWS::Budgets::Budget``; Cost Management guide, "Managing your costs with AWS Budgets". It
counts the whole account: a budget by tag works only after the tag is activated by hand.
"""

from __future__ import annotations

from typing import Any

from penstock.infra.deployment import Budget, Deployment, Files
from penstock.infra.stack import stack

__all__ = ["render"]


def render(deployment: Deployment) -> Files:
    """The stack ``NAME-budget``."""
    budget = deployment.budget
    asked = {
        "BudgetName": f"{deployment.name}-monthly",
        "BudgetType": "COST",
        "TimeUnit": "MONTHLY",
        "BudgetLimit": {"Amount": budget.monthly_usd, "Unit": "USD"},
    }
    alarms = [_alarm(budget, percent, "ACTUAL") for percent in budget.alarm_percent] + [
        _alarm(budget, 100, "FORECASTED")
    ]
    properties = {"Budget": asked, "NotificationsWithSubscribers": alarms}
    resources = {"Monthly": {"Type": "AWS::Budgets::Budget", "Properties": properties}}
    outputs = {"Budget": {"Description": "Its name", "Value": {"Ref": "Monthly"}}}
    return {"cloudformation/budget.yaml": stack(f"{deployment.name}: budget and alarms", resources, outputs)}


def _alarm(budget: Budget, percent: int, kind: str) -> dict[str, Any]:
    when = {
        "NotificationType": kind,
        "ComparisonOperator": "GREATER_THAN",
        "Threshold": percent,
        "ThresholdType": "PERCENTAGE",
    }
    return {"Notification": when, "Subscribers": [{"SubscriptionType": "EMAIL", "Address": budget.email}]}
