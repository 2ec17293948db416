locals {
  region = data.aws_region.this.region

  # Title, unit and metrics of each graph: namespace, name, dimension, value, statistic and, if need be, label.
  graphs = [
    {
      title = "Requests", metrics = concat(
        [["AWS/ApiGateway", "Count", "ApiId", aws_apigatewayv2_api.this.id, { stat = "Sum" }]],
        [for code in ["4xx", "5xx"] : ["AWS/ApiGateway", code, "ApiId", aws_apigatewayv2_api.this.id, { stat = "Sum" }]],
      )
    },
    {
      title = "Latency at the gateway, ms", metrics = [
        for stat in ["p50", "p99"] :
        ["AWS/ApiGateway", "Latency", "ApiId", aws_apigatewayv2_api.this.id, { stat = stat, label = stat }]
      ]
    },
    {
      title = "Calls", metrics = [
        for f in keys(local.functions) : ["AWS/Lambda", "Invocations", "FunctionName", "${var.name}-${f}", { stat = "Sum", label = f }]
      ]
    },
    {
      title = "Errors and throttled calls", metrics = [
        for pair in setproduct(keys(local.functions), ["Errors", "Throttles"]) :
        ["AWS/Lambda", pair[1], "FunctionName", "${var.name}-${pair[0]}", { stat = "Sum", label = "${pair[0]}: ${pair[1]}" }]
      ]
    },
    {
      title = "Duration p99, ms", metrics = [
        for f in keys(local.functions) : ["AWS/Lambda", "Duration", "FunctionName", "${var.name}-${f}", { stat = "p99", label = f }]
      ]
    },
    {
      title = "At once", metrics = [
        for f in keys(local.functions) :
        ["AWS/Lambda", "ConcurrentExecutions", "FunctionName", "${var.name}-${f}", { stat = "Maximum", label = f }]
      ]
    },
    {
      title = "Dead letters and writes in the queue", metrics = [
        for q in concat(["dead-letters"], var.queue ? ["writes"] : []) :
        ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", "${var.name}-${q}", { stat = "Maximum", label = q }]
      ]
    },
    {
      title = "Corrupt objects met", metrics = [["Esker/${var.name}", "Corrupt", { stat = "Sum" }]]
    },
    {
      title = "Bytes in the store", period = 86400, metrics = [
        ["AWS/S3", "BucketSizeBytes", "BucketName", local.bucket, "StorageType", "StandardStorage", { stat = "Average" }]
      ]
    },
  ]
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = var.name
  dashboard_body = jsonencode({
    widgets = [
      for at, graph in local.graphs : {
        type   = "metric"
        x      = 8 * (at % 3)
        y      = 6 * floor(at / 3)
        width  = 8
        height = 6
        properties = {
          title   = graph.title
          region  = local.region
          view    = "timeSeries"
          period  = lookup(graph, "period", 300)
          metrics = graph.metrics
        }
      }
    ]
  })
}
