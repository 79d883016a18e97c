#!/bin/sh
# Predict patches by a running `histo serve`: HISTO_TOKEN=… sh predict_over_http.sh a.tif
curl -H "Authorization: Bearer $HISTO_TOKEN" -F "files=@$1" "${HISTO_ADDRESS:-http://127.0.0.1:8791}/api/predict"
