# Each alarm is called after a page of docs/operations/runbook.
locals {
  # Per function: page => metric, statistic, threshold, periods of 5 minutes.
  function_alarms = {
    for pair in setproduct(keys(local.functions), ["function-errors", "function-throttled", "function-slow"]) :
    "${pair[0]}-${pair[1]}" => { function = pair[0], page = pair[1] }
  }

  alarm_metrics = {
    function-errors = {
      metric = "Errors", statistic = "Sum", threshold = 5, says = "More than 5 calls in 5 minutes ended in an error."
    }
    function-throttled = {
      metric = "Throttles", statistic = "Sum", threshold = 0, says = "Calls were refused because too many ran at once."
    }
    function-slow = {
      metric = "Duration", statistic = "p99", threshold = null, says = "One call in 100 takes 80 % of the function's time limit."
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "function" {
  for_each          = local.function_alarms
  alarm_name        = "${var.name}-${each.key}"
  alarm_description = "${local.alarm_metrics[each.value.page].says} ${var.runbooks}/${each.value.page}.md"
  namespace         = "AWS/Lambda"
  metric_name       = local.alarm_metrics[each.value.page].metric
  dimensions        = { FunctionName = aws_lambda_function.this[each.value.function].function_name }

  statistic          = each.value.page == "function-slow" ? null : local.alarm_metrics[each.value.page].statistic
  extended_statistic = each.value.page == "function-slow" ? local.alarm_metrics[each.value.page].statistic : null
  threshold = coalesce(
    local.alarm_metrics[each.value.page].threshold, local.functions[each.value.function].timeout * 800,
  )

  comparison_operator = "GreaterThanThreshold"
  period              = 300
  evaluation_periods  = each.value.page == "function-errors" ? 1 : 3
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topics
  ok_actions          = var.alarm_topics
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "gateway_errors" {
  alarm_name          = "${var.name}-gateway-errors"
  alarm_description   = "More than 1 % of requests were answered with 5xx. ${var.runbooks}/gateway-errors.md"
  namespace           = "AWS/ApiGateway"
  metric_name         = "5xx"
  dimensions          = { ApiId = aws_apigatewayv2_api.this.id }
  statistic           = "Average"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0.01
  period              = 300
  evaluation_periods  = 2
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topics
  ok_actions          = var.alarm_topics
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "gateway_slow" {
  alarm_name          = "${var.name}-gateway-slow"
  alarm_description   = "One request in 100 takes more than 3 s. ${var.runbooks}/gateway-slow.md"
  namespace           = "AWS/ApiGateway"
  metric_name         = "Latency"
  dimensions          = { ApiId = aws_apigatewayv2_api.this.id }
  extended_statistic  = "p99"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 3000
  period              = 300
  evaluation_periods  = 3
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topics
  ok_actions          = var.alarm_topics
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "dead_letters" {
  alarm_name          = "${var.name}-dead-letters"
  alarm_description   = "A message or an event was given up. ${var.runbooks}/dead-letters.md"
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.dead_letters.name }
  statistic           = "Maximum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  period              = 300
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topics
  ok_actions          = var.alarm_topics
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "queue_late" {
  count               = var.queue ? 1 : 0
  alarm_name          = "${var.name}-queue-late"
  alarm_description   = "A write has waited in the queue for more than 5 minutes. ${var.runbooks}/queue-late.md"
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateAgeOfOldestMessage"
  dimensions          = { QueueName = aws_sqs_queue.writes[0].name }
  statistic           = "Maximum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 300
  period              = 60
  evaluation_periods  = 3
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topics
  ok_actions          = var.alarm_topics
  tags                = var.tags
}

# The tick is daily unless it was changed, and an alarm may look back at two days of it.
resource "aws_cloudwatch_metric_alarm" "compactor_silent" {
  count               = var.tick == null ? 0 : 1
  alarm_name          = "${var.name}-compactor-silent"
  alarm_description   = "The compactor was not called for two days. ${var.runbooks}/compactor-silent.md"
  namespace           = "AWS/Lambda"
  metric_name         = "Invocations"
  dimensions          = { FunctionName = aws_lambda_function.this["compactor"].function_name }
  statistic           = "Sum"
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  period              = 86400
  evaluation_periods  = 2
  treat_missing_data  = "breaching"
  alarm_actions       = var.alarm_topics
  ok_actions          = var.alarm_topics
  tags                = var.tags
}

# An object whose bytes are not what was written. The word is in the line that the function logs with the error.
resource "aws_cloudwatch_log_metric_filter" "corrupt" {
  for_each       = local.functions
  name           = "${var.name}-${each.key}-corrupt"
  log_group_name = aws_cloudwatch_log_group.function[each.key].name
  pattern        = "{ $.kind = \"corrupt\" }"

  metric_transformation {
    name      = "Corrupt"
    namespace = "Esker/${var.name}"
    value     = "1"
  }
}

resource "aws_cloudwatch_metric_alarm" "corrupt" {
  alarm_name          = "${var.name}-corrupt"
  alarm_description   = "An object in the store is not what was written. ${var.runbooks}/corrupt.md"
  namespace           = "Esker/${var.name}"
  metric_name         = "Corrupt"
  statistic           = "Sum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  period              = 300
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topics
  ok_actions          = var.alarm_topics
  tags                = var.tags

  depends_on = [aws_cloudwatch_log_metric_filter.corrupt]
}
