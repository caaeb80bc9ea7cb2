import type { Dashboard, Panel, RowPanel, VariableModel } from "@grafana/schema";
import type { Options as Stat } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type {
    FieldConfig as TimeSeriesFields, Options as TimeSeries,
} from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// In a file of JSON the member of an enumeration is its text.
type Plain<T> =
    T extends string ? `${T}`
    : T extends number | boolean | null | undefined ? T
    : T extends (infer Each)[] ? Plain<Each>[]
    : T extends object ? { [Name in keyof T]: Plain<T[Name]> }
    : T;

type PanelOf<Kind extends string, Options, Fields> =
    Omit<Panel, "type" | "options" | "fieldConfig" | "targets"> & {
        type: Kind;
        options: Options;
        fieldConfig: Omit<NonNullable<Panel["fieldConfig"]>, "defaults"> & {
            defaults: Omit<NonNullable<Panel["fieldConfig"]>["defaults"], "custom"> & { custom?: Fields };
        };
        // What the data source of Prometheus reads.
        targets: {
            datasource: { type: string; uid: string };
            editorMode: "code";
            expr: string;
            legendFormat: string;
            range: boolean;
            refId: string;
        }[];
    };

type Annotations = NonNullable<NonNullable<Dashboard["annotations"]>["list"]>[number] & {
    expr?: string;
    step?: string;
    tagKeys?: string;
    titleFormat?: string;
    textFormat?: string;
    useValueForTime?: boolean;
};

export type Checked = Plain<
    Omit<Dashboard, "panels" | "annotations" | "templating"> & {
        panels: (
            | RowPanel
            | PanelOf<"stat", Partial<Stat>, never>
            | PanelOf<"timeseries", TimeSeries, Partial<TimeSeriesFields>>
        )[];
        annotations: { list: Annotations[] };
        templating: { list: (VariableModel & { definition?: string })[] };
    }
>;
